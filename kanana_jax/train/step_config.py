"""What the compiled functions of training depend on."""

import dataclasses
from typing import Any, Literal, Self

import jax
import optax

from kanana_jax import config, optim, parallel
from kanana_jax.objectives import NextToken, Objective
from kanana_jax.train import choices, optimizers


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepConfig:
    """What the compiled functions depend on: no rate, no seed, no name, no corpus.

    `execution` has no "auto" left where its value changes the program; see `train.choices`.
    """

    model: config.ModelConfig
    execution: config.ExecutionConfig
    optimizer: config.OptimizerConfig
    guard: config.GuardConfig
    average: config.AverageConfig = config.AverageConfig()  # noqa: RUF009
    lora: config.LoraConfig = config.LoraConfig()
    objective: Objective = NextToken()
    teacher: config.ModelConfig | None = None  # of an objective with a live one
    num_steps: int  # of the schedule, as far as it depends on them
    batch_size: int
    seq_len: int
    image_patches: int = 0  # room in a row for patches of images
    sounds: tuple[int, int] = (0, 0)  # and for sounds, and the frames of each
    balance_loss_weight: float = 0.0
    router_balance: Literal["sign", "quantile"] = "sign"
    router_bias_rate: float = 0.0
    rates: tuple[config.RateSegment, ...] = ()  # of stages; empty: the optimizer's schedule

    def schedule(self, lr: Any) -> optax.Schedule:
        if not self.rates:
            return optimizers.schedule(self.optimizer.schedule, self.num_steps, lr)
        warmup_steps = self.optimizer.schedule.warmup_steps
        return optim.schedules.segments(lr, self.rates, warmup_steps=warmup_steps)

    def make_optimizer(self, lr: Any) -> optax.GradientTransformationExtraArgs:
        """The optimizer under its guard at peak rate `lr`, a number or a traced scalar."""
        made = optimizers.make(self.optimizer, self.model, self.schedule(lr), self.lora)
        made = optimizers.averaged(made, self.average, self.batch_size * self.seq_len)
        return optimizers.guarded(made, self.guard)

    @classmethod
    def of(
        cls,
        cfg: config.TrainingConfig,
        objective: Objective,
        device: choices.Device | None = None,
        num_devices: int | None = None,
        rates: tuple[config.RateSegment, ...] = (),
        teacher: config.ModelConfig | None = None,
    ) -> Self:
        """What the step of a job depends on. The peak rate is 1: a step takes it as an argument.

        `rates` are those of the stages of its run, `teacher` the shape of a live teacher.
        `device` and `num_devices` are those that it will run on; None: this process's.
        """
        sizes = dataclasses.asdict(cfg.mesh)  # making the mesh checks that they use up the devices
        if -1 in sizes.values():
            sizes = parallel.axis_sizes(cfg.mesh, num_devices or jax.device_count())
        return cls(
            model=cfg.model,
            execution=choices.chosen(
                cfg.execution,
                cfg.model,
                cfg.data.batch_size,
                cfg.data.seq_len,
                sizes,
                device or choices.here(),
                keeps_average=cfg.train.average.every_tokens > 0,
                lora=cfg.lora,
                teacher=teacher,
            ),
            optimizer=dataclasses.replace(cfg.optimizer, lr=1.0),
            guard=cfg.guard,
            average=cfg.train.average,
            lora=cfg.lora,
            objective=objective,
            teacher=teacher,
            num_steps=_scheduled_steps(cfg),
            batch_size=cfg.data.batch_size,
            seq_len=cfg.data.seq_len,
            image_patches=cfg.data.image_patches,
            sounds=(cfg.data.sounds, cfg.data.sound_frames) if cfg.data.sounds else (0, 0),
            balance_loss_weight=cfg.train.balance_loss_weight,
            router_balance=cfg.train.router_balance,
            router_bias_rate=cfg.train.router_bias_rate,
            rates=rates,
        )


def _scheduled_steps(cfg: config.TrainingConfig) -> int:
    """Steps that the schedule reads, so that runs of other lengths share a step where possible."""
    schedule = cfg.optimizer.schedule
    if schedule.name == "cosine" or schedule.decay_steps:
        return cfg.train.num_steps
    return schedule.warmup_steps  # no fewer than that
