"""A model folder of `kanana_jax.convert`, ready to generate."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from kanana_jax import config
from kanana_jax.checkpoint import CheckpointError, native
from kanana_jax.data import tokenizer
from kanana_jax.generate import engine


class Loaded(NamedTuple):
    cfg: config.ModelConfig
    weights: Any  # {"params", "router_bias"}
    tokenizer: tokenizer.Tokenizer
    bos_ids: tuple[int, ...]  # what a prompt begins with, nothing or one id
    eos_ids: tuple[int, ...]

    def prompt_ids(self, prompt: str) -> list[int]:
        return [*self.bos_ids, *map(int, self.tokenizer.encode(prompt))]

    def engine(self, *, num_rows: int, length: int, chunk: int) -> engine.Engine:
        return engine.Engine(
            self.cfg,
            self.weights,
            decode=self.tokenizer.decode,
            eos_ids=self.eos_ids,
            num_rows=num_rows,
            length=length,
            chunk=chunk,
        )


def load(directory: Path, compute_dtype: str | None = None) -> Loaded:
    """Loads weights in the dtype that the model computes in, its config's unless given.

    A folder without tokenizer.json is a model of bytes. bos and eos are the tokenizer's unless
    the folder's config names them.
    """
    cfg, extra = native.read_description(directory)
    if compute_dtype is not None:
        cfg = config.edit(cfg, [f"compute_dtype={compute_dtype}"])
    cfg = dataclasses.replace(cfg, remat="none")
    path = directory / "tokenizer.json"
    if path.exists():
        used = tokenizer.from_json(path.read_text(encoding="utf-8"), str(path))
    else:
        used = tokenizer.byte_tokenizer()
    if used.vocab_size > cfg.vocab_size:
        raise CheckpointError(
            f"{directory}: the tokenizer has {used.vocab_size} tokens, the model {cfg.vocab_size}; "
            "put the model's own tokenizer.json there"
        )
    bos, eos = extra.get("bos_token_id", used.bos_id), extra.get("eos_token_id", used.eos_id)
    weights = native.restore(directory, native.abstract(cfg, jnp.dtype(cfg.compute_dtype)))
    return Loaded(cfg, weights, used, _ids(bos), _ids(eos))


def _ids(value: Any) -> tuple[int, ...]:
    """A config's token id: none, one, or a list."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)
