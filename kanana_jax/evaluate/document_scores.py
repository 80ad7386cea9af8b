"""What a model says of whole documents: bits per byte, and states that tell kinds of text apart.

Letters: N documents, B rows at a time, S positions, D dims.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kanana_jax import config, generate, model
from kanana_jax.data import wanted_tokenizer
from kanana_jax.evaluate import scoring
from kanana_jax.weights import native, source

_ROWS, _LENGTH = 8, 512  # of one forward pass

Measure = Callable[[Sequence[str]], np.ndarray]  # a row for each document


def expect_bits_per_byte(folder: str) -> None:
    """Raises CheckpointError where the folder holds no model."""
    source.open_source(Path(folder))


def expect_states(folder: str) -> None:
    """Raises CheckpointError unless `kanana_jax.convert` or a run wrote the folder."""
    native.read_description(Path(folder))


def bits_per_byte(folder: str, *, num_rows: int = _ROWS, length: int = _LENGTH) -> Measure:
    """(N,): -log2 p of each document per UTF-8 byte; 0 for an empty one.

    A document longer than `length` tokens is cut into windows of `length`, each with as much
    context as fits.
    """
    loaded = generate.load(folder)
    scorer = scoring.Scorer(loaded, num_rows=num_rows, length=length)

    def measure(texts: Sequence[str]) -> Float[np.ndarray, "N"]:
        contents = [text.encode() for text in texts]
        pairs, owners = [], []
        for owner, ids in enumerate(loaded.tokenizer.encode_batch(contents)):
            cut = scoring.windows(ids.tolist(), scoring.prefix_id(loaded), length)
            pairs += cut
            owners += [owner] * len(cut)
        bits_N = np.zeros(len(texts))
        for place, score in scorer.score(pairs):
            bits_N[owners[place]] -= score.loglikelihood / math.log(2.0)
        return bits_N / [max(len(content), 1) for content in contents]

    return measure


def states(folder: str, *, num_rows: int = _ROWS, length: int = _LENGTH) -> Measure:
    """(N, D): the mean of the last states over the first `length` tokens of each document."""
    directory = Path(folder)
    what = native.read_description(directory)
    weights = native.restore(directory, native.abstract(what.cfg, jnp.float32))
    path = directory / "tokenizer.json"
    cfg = config.DataConfig(tokenizer=str(path) if path.exists() else "bytes")
    tokenizer = wanted_tokenizer.wanted_tokenizer(cfg).make(())

    def measure(texts: Sequence[str]) -> Float[np.ndarray, "N D"]:
        found = [np.zeros((0, what.cfg.hidden_size), np.float32)]
        for part in itertools.batched(texts, num_rows):
            tokens_BS = np.zeros((num_rows, length), np.int32)
            mask_BS = np.zeros((num_rows, length), np.float32)
            rows = tokenizer.encode_documents([text.encode() for text in part])
            for place, row in enumerate(ids[:length] for ids in rows):
                tokens_BS[place, : len(row)], mask_BS[place, : len(row)] = row, 1.0
            found.append(np.asarray(_pooled(what.cfg, weights, tokens_BS, mask_BS))[: len(part)])
        return np.concatenate(found)

    return measure


@functools.partial(jax.jit, static_argnums=0)
def _pooled(
    cfg: config.ModelConfig, weights: model.Weights, tokens_BS: Array, mask_BS: Array
) -> Float[Array, "B D"]:
    hidden_BSD, _ = model.hidden_states(cfg, weights, model.Inputs.of_tokens(tokens_BS))
    total_BD = jnp.einsum("BSD,BS->BD", hidden_BSD.astype(jnp.float32), mask_BS)
    return total_BD / jnp.maximum(mask_BS.sum(axis=1, keepdims=True), 1.0)
