"""Starting from a converted model: its shape, its tokenizer, its weights."""

import dataclasses
from pathlib import Path
from typing import Any

from kanana_jax import config
from kanana_jax.checkpoint import native
from kanana_jax.train import state

# What is about computing and not about the model stays as the experiment has it.
_KEPT = (
    "compute_dtype",
    "remat",
    "attention_implementation",
    "grouped_matmul_implementation",
    "expert_exchange",
    "deterministic",
)


def with_shape(exp: config.Experiment) -> config.Experiment:
    """`exp` with the model that train.init_from holds; raises CheckpointError if there is none."""
    if not exp.train.init_from:
        return exp
    cfg = native.read_description(Path(exp.train.init_from)).cfg
    kept = {name: getattr(exp.model, name) for name in _KEPT}
    return dataclasses.replace(exp, model=dataclasses.replace(cfg, **kept))


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
