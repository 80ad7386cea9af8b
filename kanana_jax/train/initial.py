"""Starting from a converted model: its shape, its tokenizer, its weights."""

import dataclasses
from pathlib import Path
from typing import Any

from kanana_jax import config
from kanana_jax.weights import native
from kanana_jax.train import state


def with_shape(exp: config.Experiment) -> config.Experiment:
    """`exp` with the model that train.init_from holds; raises CheckpointError if there is none.

    How it is computed stays as the experiment has it, and so does a YaRN extension of its context.
    """
    if not exp.train.init_from:
        return exp
    cfg = native.read_description(Path(exp.train.init_from)).cfg
    kept = {
        field.name: getattr(exp.model, field.name)
        for field in dataclasses.fields(exp.model)
        if field.metadata == config.COMPUTING
    }
    yarn = exp.model.yarn or cfg.yarn
    return dataclasses.replace(exp, model=dataclasses.replace(cfg, **kept, yarn=yarn))


def check_tokenizer(exp: config.Experiment) -> None:
    """Raises ConfigError when data.tokenizer is another than the model's to start from."""
    path = Path(exp.train.init_from, "tokenizer.json")
    if not exp.train.init_from or not path.exists():
        return
    given = Path(exp.data.tokenizer)
    if not given.is_file() or given.read_bytes() != path.read_bytes():
        raise config.ConfigError(
            f"the model to start from reads the tokens of {path}, got "
            f"data.tokenizer={exp.data.tokenizer}; set data.tokenizer={path}"
        )


def restore(exp: config.Experiment, like: state.TrainState) -> Any:
    """{"params", "router_bias"} with the dtypes and shardings of the train state `like`."""
    wanted = {"params": like.params, "router_bias": like.router_bias}
    return native.restore(Path(exp.train.init_from), wanted)
