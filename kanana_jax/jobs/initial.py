"""Starting from a converted model: its shape, its tokenizer, its weights."""

import dataclasses
from pathlib import Path

from kanana_jax import config, model
from kanana_jax.weights import native


def with_shape[Config: config.TrainingConfig](cfg: Config) -> Config:
    """`cfg` with the model that train.init_from holds; raises CheckpointError if there is none.

    A YaRN extension of its context and a clamp of SwiGLU stay as the settings have them.
    """
    if not cfg.train.init_from:
        return cfg
    shape = native.read_description(Path(cfg.train.init_from)).cfg
    yarn = cfg.model.yarn or shape.yarn
    clamp = cfg.model.swiglu_clamp or shape.swiglu_clamp
    shape = dataclasses.replace(shape, yarn=yarn, swiglu_clamp=clamp)
    return dataclasses.replace(cfg, model=shape)


def check_tokenizer(init_from: str, tokenizer: str) -> None:
    """Raises ConfigError when data.tokenizer is another than the model's to start from."""
    path = Path(init_from, "tokenizer.json")
    if not init_from or not path.exists():
        return
    given = Path(tokenizer)
    if not given.is_file() or given.read_bytes() != path.read_bytes():
        raise config.ConfigError(
            f"the model to start from reads the tokens of {path}, got "
            f"data.tokenizer={tokenizer}; set data.tokenizer={path}"
        )


def restore(init_from: str, like: model.Weights) -> model.Weights:
    """The weights with the dtypes and shardings of `like`."""
    return native.restore(Path(init_from), like)
