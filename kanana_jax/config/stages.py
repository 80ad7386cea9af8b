"""A run in stages: each a number of tokens with its own mixture, batch, rate and rope.

    stages=(
        StageConfig(name="broad", tokens=2**20, weights=(0.8, 0.2), lr_begin=1.0),
        StageConfig(name="best", tokens=2**18, weights=(0.2, 0.8), batch_size=32, lr_begin=0.5),
    )

A stage takes what it leaves empty from the other settings. On a command line
stages.best.tokens=65536 edits one of them.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, Self

from kanana_jax.config import fields
from kanana_jax.config.edits import edit
from kanana_jax.config.fields import ConfigError, some
from kanana_jax.config.job import Stage, TrainingConfig, edited_paths
from kanana_jax.config.model import ModelConfig, RopeTheta, YarnConfig
from kanana_jax.config.paths import folder_name
from kanana_jax.config.ranges import CountOrZero, Range, SourceWeight

Ratio = Annotated[float, Range(0.0, 1e3, "a multiple of the peak")]


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """A part of a run. Fields that are empty, 0 or None are as in the other settings."""

    name: Annotated[str, folder_name]
    tokens: Annotated[int, Range(1, 2**62, "no run is longer")]  # inputs, all sequences together
    # Of the sources in data.paths, drawn by ratio; 0: not in this stage.
    weights: tuple[SourceWeight, ...] = ()
    seq_len: CountOrZero = 0  # divides data.seq_len, the longest
    batch_size: CountOrZero = 0  # sequences; micro-batches keep their size, where it is given
    # The rate at its first step and where it ends, as multiples of optimizer.lr. Without lr_begin
    # optimizer.schedule decides, for all stages; without lr_end the rate stays.
    lr_begin: Ratio | None = None
    lr_end: Ratio | None = None
    lr_shape: Literal["linear", "cosine"] = "linear"  # between the two
    rope_theta: RopeTheta | None = None
    yarn: YarnConfig | None = None

    def __post_init__(self):
        fields.check(self, "stages")
        if self.lr_begin is None and self.lr_end is not None:
            raise ConfigError(f"stage {self.name!r} has an lr_end, so it needs an lr_begin too")
        if self.weights and not any(self.weights):
            raise ConfigError(f"stage {self.name!r} must draw from some source, got weights of 0")


class RateSegment(NamedTuple):
    """The learning rate over so many steps, as multiples of the peak."""

    num_steps: int
    begin: float
    end: float
    shape: Literal["linear", "cosine"]


@dataclass(frozen=True, kw_only=True)
class StagedConfig(TrainingConfig):
    """A run that may have stages. If so, their tokens decide train.num_steps."""

    stages: tuple[StageConfig, ...] = ()
    # Readings of a source over the whole run; more are refused. 0: any number.
    max_epochs: Annotated[float, Range(0.0, 1e6, "text is read again and again")] = 0.0

    def __post_init__(self):
        fields.check(self, "")
        if self.stages:
            num_steps = sum(_num_steps(self, one) for one in self.stages)
            train = dataclasses.replace(self.train, num_steps=num_steps)
            object.__setattr__(self, "train", train)
        super().__post_init__()
        names = [one.name for one in self.stages]
        if len(names) != len(set(names)):
            raise ConfigError(f"stages must have names of their own, got {', '.join(names)}")
        for one in self.stages:
            _check_shape(self, one)
        _check_rates(self)
        self.in_stages()  # each must be a valid run

    def edited(self, edits: Iterable[str]) -> Self:
        """With `path=value` edits applied; raises ConfigError."""
        edits = list(edits)
        made = edit(self, edits)
        if made.stages and "train.num_steps" in edited_paths(edits):
            raise ConfigError(
                "train.num_steps is what the tokens of the stages come to; edit these, as in "
                f"stages.{made.stages[0].name}.tokens={made.stages[0].tokens}"
            )
        return made

    def in_stages(self) -> tuple[Stage, ...]:
        if not self.stages:
            return super().in_stages()
        return tuple(
            Stage(one.name, _num_steps(self, one), _settings(self, one)) for one in self.stages
        )

    def rate_segments(self) -> tuple[RateSegment, ...]:
        """The learning rate of each stage; empty where optimizer.schedule decides."""
        return tuple(
            RateSegment(
                _num_steps(self, one),
                one.lr_begin,
                one.lr_begin if one.lr_end is None else one.lr_end,
                one.lr_shape,
            )
            for one in self.stages
            if one.lr_begin is not None
        )


def _sequences(cfg: StagedConfig, stage: StageConfig) -> tuple[int, int]:
    """The batch size and sequence length of a stage."""
    return stage.batch_size or cfg.data.batch_size, stage.seq_len or cfg.data.seq_len


def _num_steps(cfg: StagedConfig, stage: StageConfig) -> int:
    batch_size, seq_len = _sequences(cfg, stage)
    num_steps, rest = divmod(stage.tokens, batch_size * seq_len)
    if rest or not num_steps:
        step = batch_size * seq_len
        near = sorted({max(1, num_steps) * step, (num_steps + 1) * step})
        raise ConfigError(
            f"the tokens of stage {stage.name!r} must be a multiple of its batch, {batch_size} "
            f"sequences of {seq_len} = {step} tokens; got {stage.tokens}, near which are "
            f"{' and '.join(map(str, near))}"
        )
    return num_steps


def _check_shape(cfg: StagedConfig, stage: StageConfig) -> None:
    if stage.seq_len and cfg.data.seq_len % stage.seq_len:
        raise ConfigError(
            f"the seq_len of stage {stage.name!r} must divide data.seq_len = {cfg.data.seq_len}, "
            f"the longest of the run, which held-out text is cut by; got {stage.seq_len}"
        )
    if stage.weights and len(stage.weights) != max(1, len(cfg.data.paths)):
        raise ConfigError(
            f"stage {stage.name!r} needs one weight per path of data.paths: got "
            f"{len(stage.weights)} weights for {len(cfg.data.paths)} paths"
        )


def _check_rates(cfg: StagedConfig) -> None:
    without = [one.name for one in cfg.stages if one.lr_begin is None]
    if not cfg.stages or len(without) == len(cfg.stages):
        return
    if without:
        raise ConfigError(
            "all stages must have an lr_begin or none: the learning rate is not known in "
            f"{some(without)}"
        )
    if cfg.optimizer.schedule.name != "constant":
        raise ConfigError(
            "where stages have an lr_begin, optimizer.schedule gives the warm-up alone; set "
            f"optimizer.schedule.name=constant, got {cfg.optimizer.schedule.name}"
        )


def _settings(cfg: StagedConfig, stage: StageConfig) -> StagedConfig:
    """The settings of a stage, as for a run of its own."""
    batch_size, seq_len = _sequences(cfg, stage)
    num_micro = cfg.execution.accumulation_steps
    if num_micro != "auto":
        # Micro-batches of as many tokens as without stages, or fewer.
        num_micro = -(-num_micro * batch_size * seq_len // (cfg.data.batch_size * cfg.data.seq_len))
        if batch_size % num_micro:
            raise ConfigError(
                f"the batch_size of stage {stage.name!r} must be a multiple of its micro-batches, "
                f"{num_micro} = execution.accumulation_steps x its tokens over those of "
                f"data.batch_size; got {batch_size}"
            )
    return dataclasses.replace(
        cfg,
        stages=(),
        data=dataclasses.replace(
            cfg.data,
            batch_size=batch_size,
            seq_len=seq_len,
            weights=stage.weights if cfg.data.paths and stage.weights else cfg.data.weights,
        ),
        execution=dataclasses.replace(cfg.execution, accumulation_steps=num_micro),
        model=_with_rope(cfg.model, stage),
    )


def _with_rope(model: ModelConfig, stage: StageConfig) -> ModelConfig:
    return dataclasses.replace(
        model,
        rope_theta=model.rope_theta if stage.rope_theta is None else stage.rope_theta,
        yarn=stage.yarn or model.yarn,
        llama3_rope=None if stage.yarn else model.llama3_rope,
    )
