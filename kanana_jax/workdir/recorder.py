"""Step records on their way from the device to the metrics file, and what they say of the run."""

import collections
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from kanana_jax import config
from kanana_jax.report import metrics, progress
from kanana_jax.workdir.clock import Clock
from kanana_jax.workdir.events import Events

# Records wait this many steps before they are fetched, so that the device is never waited for.
_LAG_STEPS = 8
_WINDOW_STEPS = 20  # over which speed is measured


class Work(NamedTuple):
    """What a step does, for the speeds that are recorded. 0 where it is not known."""

    tokens: int
    flops: float = 0.0  # of the model, forward and backward, without recomputation
    peak_flops_per_second: float = 0.0  # of all devices together


class Recorder:
    """Writes step records a few steps late; writes none after the first that ends the run.

    With the guard, the run ends at the last of `max_skips` skipped steps in a row; without it, at
    the first loss that is not finite. `trouble_step` is that step. Decisions depend on records
    alone, not on when they are fetched, so a resumed run and all processes take the same ones. Only
    process 0 has a `writer`. `work` is the work of a step in each stage.
    """

    def __init__(
        self,
        guard: config.GuardConfig,
        writer: metrics.MetricsWriter | None,
        bar: progress.Progress,
        log: Events,
        clock: Clock,
        work: Sequence[Work],
    ):
        self._guard, self._writer, self._bar, self._log = guard, writer, bar, log
        self._clock, self._work = clock, work
        self._waiting: collections.deque[tuple[int, dict]] = collections.deque()
        self._stage = 0  # of the newest record written
        self._is_alarmed = self._is_storage_failing = False
        self._marks: collections.deque[float] = collections.deque(maxlen=_WINDOW_STEPS + 1)
        self.skips = 0  # in a row, up to the newest record written
        self.trouble_step: int | None = None

    def restart(self, num_undone: int) -> None:
        """Forgets the records after the one that ended the run, to go on from an older state.

        The undone steps that were skipped at the end are already counted as skipped.
        """
        self._clock.add("rewound", max(0, num_undone - self.skips) * self._step_s())
        self._waiting.clear()
        self._marks.clear()
        self.skips, self.trouble_step = 0, None

    def may_save(self, is_last: bool) -> bool:
        """Whether the newest step was good, or the last, and every record is on disk."""
        is_good = self.trouble_step is None and (is_last or not self.skips)
        return is_good and self._storage_error is None

    @property
    def _storage_error(self) -> OSError | None:
        return None if self._writer is None else self._writer.error

    def push(self, number: int, entry: dict) -> None:
        self._waiting.append((number, entry))
        self.flush(keep=_LAG_STEPS)

    def flush(self, keep: int = 0) -> None:
        while len(self._waiting) > keep and self.trouble_step is None:
            number, entry = self._waiting.popleft()
            entry = jax.device_get(entry)
            self._begin_stage(entry.get("stage", 0))
            if entry.get("consecutive_skips", 0):
                self._clock.add("skipped", self._step_s())
            else:
                self._marks.append(self._clock.seconds - self._clock.overhead_s)
            entry |= self._clock.metrics() | self._speeds()
            if self._writer is not None:
                self._writer.write(number, entry)
            self._bar.update(number, **_shown(entry))
            self._judge(number, entry)

    def _step_s(self) -> float:
        """Mean training time of the newest steps; 0 before there are two."""
        if len(self._marks) < 2:
            return 0.0
        return max(0.0, self._marks[-1] - self._marks[0]) / (len(self._marks) - 1)

    def _begin_stage(self, stage: int) -> None:
        if stage != self._stage:  # its steps take a different time
            self._stage = stage
            self._marks.clear()

    def _speeds(self) -> dict[str, float]:
        step_s, work = self._step_s(), self._work[self._stage]
        if not step_s:
            return {}
        found = {"tokens_per_second": work.tokens / step_s}
        if work.flops:
            found["model_tflops_per_second"] = work.flops / step_s / 1e12
        if work.flops and work.peak_flops_per_second:
            found["mfu"] = work.flops / step_s / work.peak_flops_per_second
        return found

    def _judge(self, number: int, entry: dict) -> None:
        error = self._storage_error
        if error is not None and not self._is_storage_failing:
            self._log.report(
                "storage_failed",
                f"metrics from step {number} on wait in memory ({error}); training "
                "goes on without new checkpoints until they can be written",
            )
        self._is_storage_failing = error is not None
        if "loss" not in entry:  # nothing was trained
            return
        if not self._guard.enabled:
            if not math.isfinite(entry["loss"]):
                self.trouble_step = number
            return
        self.skips = int(entry["consecutive_skips"])
        if self.skips:
            size = f"loss {entry['loss']:g}, gradient RMS {entry['grad_rms']:g}"
            self._log.report("step_skipped", f"step {number} changed no weight ({size})")
        if self.skips >= self._guard.max_skips:
            self.trouble_step = number
        is_high = float(entry["max_logit"]) > self._guard.max_logit_alarm
        if is_high and not self._is_alarmed:
            self._log.report(
                "max_logit_alarm",
                f"max attention logit {entry['max_logit']:g} at step {number} is over "
                f"guard.max_logit_alarm = {self._guard.max_logit_alarm:g}",
            )
        self._is_alarmed = is_high


def _shown(entry: dict[str, Any]) -> dict[str, float]:
    """What the progress bar shows of a record."""
    names = ("loss", "max_logit", "mfu")
    return {name: float(entry[name]) for name in names if name in entry}
