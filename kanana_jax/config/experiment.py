"""Experiment configuration."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from kanana_jax.config import fields
from kanana_jax.config.data import DataConfig
from kanana_jax.config.edits import edit
from kanana_jax.config.execution import ExecutionConfig
from kanana_jax.config.fields import ConfigError, shown
from kanana_jax.config.mesh import MeshConfig
from kanana_jax.config.model import ModelConfig
from kanana_jax.config.optimizer import OptimizerConfig
from kanana_jax.config.paths import folder_name
from kanana_jax.config.ranges import SEED_MAX, Range, Rate, expect_int32
from kanana_jax.config.train import GuardConfig, ResumeConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One contestant of a comparison: a name and the `path=value` edits that make it."""

    name: str
    edits: tuple[str, ...]
    lrs: tuple[Rate, ...] = ()  # rates that it alone runs at, besides those of the sweep

    def __post_init__(self):
        fields.check(self, "arms")
        if not self.name.strip() or not self.name.isprintable():
            raise ConfigError(
                f"an arm's name must have characters that can be seen, and no others; "
                f"got {shown(self.name)}"
            )


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides a result. With `arms`, every arm runs at every rate and seed."""

    name: Annotated[str, folder_name]
    question: str
    model: ModelConfig
    execution: ExecutionConfig = ExecutionConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    guard: GuardConfig = GuardConfig()
    mesh: MeshConfig = MeshConfig()
    resume: ResumeConfig = ResumeConfig()
    arms: tuple[Arm, ...] = ()
    lrs: tuple[Rate, ...] = ()  # the sweep of a comparison, base rate first
    seeds: Annotated[int, Range(1, 10_000, "each is a run")] = 1

    def __post_init__(self):
        fields.check(self, "")
        self._check_seeds()
        self._check_batch()
        self._check_schedule()
        known = fields.names(Experiment)
        for name in self.resume.allow:
            if name not in known:
                raise ConfigError(
                    f"resume.allow names no setting or group {shown(name)}; nearest are "
                    f"{fields.nearest(name, known, 3)}"
                )

    def _check_seeds(self):
        for name, first in (("train.seed", self.train.seed), ("data.seed", self.data.seed)):
            last = first + self.seeds - 1
            if last > SEED_MAX:
                raise ConfigError(
                    f"{name} + seeds - 1 must be at most {SEED_MAX}, the last seed of JAX; got "
                    f"{last}"
                )

    def _check_batch(self):
        batch_size, parts = self.data.batch_size, self.train.accumulation_steps
        if batch_size % parts:
            raise ConfigError(
                f"train.accumulation_steps must divide data.batch_size = {batch_size}, got {parts}"
            )
        expect_int32(
            "data.batch_size / train.accumulation_steps x data.seq_len x num_experts_per_token",
            *(batch_size // parts, self.data.seq_len, max(self.model.num_experts_per_token, 1)),
        )

    def _check_schedule(self):
        schedule, last = self.optimizer.schedule, self.train.num_steps
        needed = schedule.warmup_steps + schedule.decay_steps
        if schedule.name != "constant" and needed > last:
            raise ConfigError(
                f"optimizer.schedule needs warmup_steps + decay_steps = {schedule.warmup_steps} + "
                f"{schedule.decay_steps} steps, got train.num_steps = {last}; shorten them or "
                "train longer"
            )


def known_part(path: str) -> str:
    """The setting at `path`, or the innermost group around it that experiments have; else ""."""
    while path and path not in fields.names(Experiment):
        path = path.rpartition(".")[0]
    return path


def edit_experiment(exp: Experiment, edits: Iterable[str]) -> Experiment:
    """`edit`, refusing settings that the arms or the sweep would silently override.

    `lrs=...` replaces the rates of single arms too.
    """
    edits = list(edits)
    if "lrs" in edited_paths(edits):
        arms = tuple(dataclasses.replace(arm, lrs=()) for arm in exp.arms)
        exp = dataclasses.replace(exp, arms=arms)
    edited = edit(exp, edits)
    of_arms = [(arm, edit_arm(edited, arm)) for arm in edited.arms]
    for path in edited_paths(edits):
        if path == "optimizer.lr" and set(edited.lrs) - {edited.optimizer.lr}:
            raise ConfigError(f"{path} is what lrs sweeps; set lrs=...")
        wanted = setting(edited, path)
        for arm, its in of_arms:
            if setting(its, path) != wanted:
                raise ConfigError(
                    f"{path} is what the arms compare: got {wanted}, and arm {arm.name!r} has "
                    f"{setting(its, path)}; change the arms in the experiment's function"
                )
    return edited


def edit_arm(exp: Experiment, arm: Arm) -> Experiment:
    """`exp` with the edits of `arm`; a ConfigError names the arm."""
    try:
        return edit(exp, arm.edits)
    except ConfigError as error:
        raise ConfigError(f"arm {arm.name!r}: {error}") from error


def edited_paths(edits: Iterable[str]) -> list[str]:
    """The settings that `path=value` edits name."""
    return [text.partition("=")[0].strip() for text in edits]


def setting(config: object, path: str) -> object:
    """The value at `path`; None below a group that is None."""
    for name in path.split("."):
        config = None if config is None else getattr(config, name)
    return config


def single_run(exp: Experiment, *, lr: float, seed: int) -> Experiment:
    """One training run of a comparison, before the edits of its arm.

    The seed moves initialisation and the order of the data.
    """
    return dataclasses.replace(
        exp,
        arms=(),
        lrs=(),
        seeds=1,
        optimizer=dataclasses.replace(exp.optimizer, lr=lr),
        train=dataclasses.replace(exp.train, seed=seed),
        data=dataclasses.replace(exp.data, seed=exp.data.seed + seed - exp.train.seed),
    )
