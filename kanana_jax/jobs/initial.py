"""Starting from a model folder: its shape, tokenizer, weights; and from an optimizer's state."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kanana_jax import checkpoint, config, model
from kanana_jax.train import optimizers, state
from kanana_jax.weights import native
from kanana_jax.workdir import events


def of_seed(train: config.TrainConfig) -> config.TrainConfig:
    """`train` with its seed in the folders that it starts from."""
    names = ("init_from", "optimizer_from")
    folders = {name: getattr(train, name).replace("{seed}", str(train.seed)) for name in names}
    return dataclasses.replace(train, **folders)


def with_shape[Config: config.TrainingConfig](cfg: Config) -> Config:
    """`cfg` with the model that train.init_from holds; raises CheckpointError if there is none.

    An extension of its context, a clamp of SwiGLU and a scalar head stay as the settings have them.
    """
    if not cfg.train.init_from:
        return cfg
    shape = native.read_description(Path(of_seed(cfg.train).init_from)).cfg
    rope = cfg.model if cfg.model.yarn or cfg.model.llama3_rope else shape
    clamp = cfg.model.swiglu_clamp or shape.swiglu_clamp
    has_scalars = cfg.model.scalar_head or shape.scalar_head
    shape = dataclasses.replace(
        shape,
        yarn=rope.yarn,
        llama3_rope=rope.llama3_rope,
        swiglu_clamp=clamp,
        scalar_head=has_scalars,
    )
    return dataclasses.replace(cfg, model=shape)


def check_tokenizer(folder: str, tokenizer: str, whose: str = "the model to start from") -> None:
    """Raises ConfigError when data.tokenizer differs from a model folder's tokenizer, if any."""
    path = Path(folder, "tokenizer.json")
    if not folder or not path.exists():
        return
    given = Path(tokenizer)
    if not given.is_file() or given.read_bytes() != path.read_bytes():
        raise config.ConfigError(
            f"{whose} reads the tokens of {path}, got "
            f"data.tokenizer={tokenizer}; set data.tokenizer={path}"
        )


def restore(init_from: str, like: model.Weights) -> model.Weights:
    """The weights with the dtypes and shardings of `like`.

    A scalar head that the folder does not have is zero, as a fresh one.
    """
    folder, name = Path(init_from), "scalar_head"
    if name not in like.params or native.read_description(folder).cfg.scalar_head:
        return native.restore(folder, like)
    others = {key: leaf for key, leaf in like.params.items() if key != name}
    found = native.restore(folder, like._replace(params=others))
    head = like.params[name]
    zeros = jax.device_put(np.zeros(head.shape, head.dtype), head.sharding)
    return found._replace(params={**found.params, name: zeros})


def optimizer_state(run: Path, like: state.TrainState) -> Any:
    """A run's newest optimizer state, laid out as in `like`, with its rate at the first step.

    Raises CheckpointError where the run has no checkpoint, MismatchError where it is of another
    optimizer or model.
    """
    where, train = _checkpoints(run)
    with checkpoint.Checkpoints(
        where, keep=train["keep_checkpoints"], report=events.Events(run).report
    ) as checkpoints:
        found = checkpoints.restore_latest(like)
    if found is None:
        raise checkpoint.CheckpointError(f"{where} has no checkpoint to take the optimizer from")
    return optimizers.restarted(found.state.opt_state)


def check_optimizer(train: config.TrainConfig) -> None:
    """Raises CheckpointError unless train.optimizer_from is empty or a run with a checkpoint."""
    if train.optimizer_from:
        where, _ = _checkpoints(Path(train.optimizer_from))
        if checkpoint.newest_step(where) is None:
            raise checkpoint.CheckpointError(
                f"train.optimizer_from: {where} has no checkpoint to take the optimizer from"
            )


def _checkpoints(run: Path) -> tuple[str, dict[str, Any]]:
    """Where a run's checkpoints are, and the settings `train` that it was made with."""
    path = run / "run.json"
    if not path.is_file():
        raise checkpoint.CheckpointError(
            f"train.optimizer_from: expected the folder of a training run, with a run.json; got "
            f"{run}"
        )
    record = json.loads(path.read_text())["config"]
    train = record["train"]
    return checkpoint.place_of(train["checkpoint_dir"], record["name"], run), train
