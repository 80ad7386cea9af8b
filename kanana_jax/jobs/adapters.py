"""The frozen model of a run that trains low-rank adapters: what it must be, and its name."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from kanana_jax import config, model, parallel
from kanana_jax.train import optimizers, trained
from kanana_jax.weights import fingerprint


class Base(NamedTuple):
    weights: dict[str, model.Weights]  # by its name among the frozen ones; empty without adapters
    fingerprint: str  # of its folder


def check(
    lora: config.LoraConfig,
    optimizer: config.OptimizerConfig,
    shape: config.ModelConfig,
    init_from: str,
) -> None:
    """Raises ConfigError where adapters are asked for that cannot be trained or have no model."""
    if not lora.rank:
        return
    if not init_from:
        raise config.ConfigError(
            "lora.rank needs a model that adapters are added to, got an empty train.init_from; "
            "name the folder of one"
        )
    optimizers.expect_able(optimizer, lora)
    trained.describe(shape, lora)


def base(
    lora: config.LoraConfig,
    shape: config.ModelConfig,
    init_from: str,
    restored: Callable[[], model.Weights],
    report: Callable[[str, str], None],
) -> Base:
    """The base from `restored` where adapters are asked for; reports what is trained next to it."""
    if not lora.rank:
        return Base({}, "")
    own, (whole, _) = trained.count(shape, lora), model.num_params(shape)
    report("lora", f"{own:,} parameters are trained beside {whole:,} that are not")
    name = fingerprint.of_folder(Path(init_from)) if parallel.is_first() else None
    return Base({trained.NAME: restored()}, parallel.everyones(name)[0])
