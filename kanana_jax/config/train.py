"""How long to train, how often to look and to save, what to do about steps that go wrong."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from kanana_jax.config import fields
from kanana_jax.config.fields import ConfigError, shown
from kanana_jax.config.paths import Location
from kanana_jax.config.ranges import Count, CountOrZero, Decay, Factor, LossWeight, Range, Seed


@dataclass(frozen=True, kw_only=True)
class AverageConfig:
    """A moving average of the weights, on which evaluators measure too: A <- d A + (1 - d) W.

    It begins as the weights before the first step; their share is d^k after k averagings. The
    source (arXiv:2608.20061, sec. 2.2) averages every 2 B tokens, at a constant learning rate.
    """

    every_tokens: CountOrZero = 0  # 0: no average is kept
    decay: Decay = 0.6  # d

    def __post_init__(self):
        fields.check(self, "train.average")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length, losses, and how often to look and save."""

    num_steps: CountOrZero = 1000  # 0: nothing is trained, and evaluators measure the start
    # Folder of a converted model to start from, which then gives the shape; {seed} stands for
    # train.seed, here and in optimizer_from.
    init_from: Annotated[str, Location(may_be_empty=True)] = ""
    # Folder of a run whose optimizer state goes on, its schedule from the start; empty: a new one.
    optimizer_from: Annotated[str, Location(may_be_empty=True)] = ""
    seed: Seed = 0
    z_loss_weight: LossWeight = 5e-6
    balance_loss_weight: LossWeight = 1e-4  # sequence-level, arXiv:2412.19437 eq. 17
    # How a step moves the bias that evens the loads of experts; "quantile" has no rate.
    router_balance: Literal["sign", "quantile"] = "sign"
    # Step of the sign rule; 0: the bias stays as it is.
    router_bias_rate: Annotated[float, Range(0.0, 1.0, "scores lie in [0, 1]")] = 1e-3
    eval_interval_steps: Count = 100
    eval_batches: Count = 8
    diagnostics_interval_steps: Count = 20  # spectral norms and orthogonality error
    average: AverageConfig = AverageConfig()
    checkpoint_interval_steps: Count = 100
    keep_checkpoints: Count = 2
    # A folder, gs://bucket/prefix or s3://...; empty: the run's folder.
    checkpoint_dir: Annotated[str, Location(schemes=("gs", "s3"), may_be_empty=True)] = ""

    def __post_init__(self):
        fields.check(self, "train")


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What becomes of steps whose loss, gradient or update cannot be trusted.

    They change no weight. After `max_skips` in a row the run goes back to its last checkpoint and
    leaves out the data of the steps in between; after `max_rewinds` rewinds it ends as diverged.
    """

    enabled: bool = True  # false: the first loss that is not finite ends the run as diverged
    # Gradient norms of accepted steps by which a spike is judged.
    window_steps: Annotated[int, Range(1, 10**6, "they are kept on the device")] = 128
    num_sigmas: Factor = 6.0  # a spike is this far above their mean
    max_skips: Count = 3
    max_rewinds: CountOrZero = 3
    # A max attention logit above it raises an event.
    max_logit_alarm: Annotated[float, Range(1e-30, 1e30, "float32 holds it")] = 1000.0

    def __post_init__(self):
        fields.check(self, "guard")


def _steps(text: str, name: str) -> str:
    """The constraint of first:last, both counted from 1; empty: none."""
    found = re.fullmatch("([0-9]{1,10}):([0-9]{1,10})", text)
    if text and not (found and 1 <= int(found[1]) <= int(found[2])):
        raise ConfigError(
            f"{name} must be two steps, the first and the last, as in 20:24; got {shown(text)}"
        )
    return text


@dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """A trace of some steps, for XProf or TensorBoard, in the run's folder `profile`."""

    steps: Annotated[str, _steps] = ""  # first:last, both included; empty: no trace

    def __post_init__(self):
        fields.check(self, "profile")


@dataclass(frozen=True, kw_only=True)
class ResumeConfig:
    """Continuing a run with settings other than those it began with."""

    allow: tuple[str, ...] = ()  # settings or groups that may differ, e.g. train.num_steps,mesh
    restart: bool = False  # from the first step, if the checkpoints that were made are gone

    def __post_init__(self):
        fields.check(self, "resume")
