"""Engines of the small model, and answers compared bit by bit."""

import numpy as np

from kanana_jax.data import tokenizer
from kanana_jax.generate import Engine, Request, Sampling
from kanana_jax.model import presets

DECODE = tokenizer.byte_tokenizer().decode


# The same in every test that does not test them, so that little is compiled. Rows are few, and
# those of 4 chunks a multiple of 16: see `Engine` on bits.
_OPTIONS = {
    "execution": presets.LAPTOP,
    "decode": DECODE,
    "eos_ids": (),
    "num_rows": 3,
    "length": 48,
    "chunk": 8,
    "tokens_per_step": 4,
    "prompts_at_once": 4,
    "with_routes": True,
}


def make(cfg, weights, **options):
    return Engine(cfg, weights=weights, **(_OPTIONS | options))


def mixed(cfg):
    """Requests of several lengths and ways to draw, two prompts among them several times."""
    rng = np.random.default_rng(2)
    prompts = [rng.integers(0, cfg.vocab_size, length).tolist() for length in (3, 11, 20)]
    hows = [Sampling(), Sampling(temperature=0.7, top_p=0.9), Sampling(top_k=5, min_p=0.01)]
    return [
        Request(
            prompt=prompts[place], max_tokens=max_tokens, sampling=hows[place % 3].at_place(seed)
        )
        for seed, (place, max_tokens) in enumerate(
            [(0, 9), (0, 12), (1, 8), (2, 12), (1, 12), (0, 1), (1, 5)]
        )
    ]


def assert_same(got, want):
    """Answers are equal, to the bits of their numbers."""
    for one, other in zip(got, want, strict=True):
        assert one._replace(routes=None) == other._replace(routes=None)
        assert (one.routes is None) == (other.routes is None)
        if one.routes is not None:
            np.testing.assert_array_equal(one.routes, other.routes)
