"""Step records on their way from the device to the metrics file, and what they say of the run."""

import collections
import math
import time
from typing import Any

import jax
import numpy as np

from kanana_jax import config
from kanana_jax.report import metrics, progress, statistics
from kanana_jax.workdir import events

# Records wait this many steps before they are fetched, so that the device is never waited for.
_LAG_STEPS = 8


class Recorder:
    """Writes step records a few steps late; writes none after the first that ends the run.

    With the guard that is the last of `max_skips` skipped steps in a row, without it the first
    loss that is not finite. `trouble_step` is its step. Decisions depend on records alone, not on
    when they are fetched, so that a resumed run takes the same ones, and so do all processes; the
    `writer` is process 0's, the others have none.
    """

    def __init__(
        self,
        guard: config.GuardConfig,
        writer: metrics.MetricsWriter | None,
        bar: progress.Progress,
        log: events.Events,
        *,
        last_step: int,
    ):
        self._guard, self._writer, self._bar, self._log = guard, writer, bar, log
        self._last_step = last_step
        self._clock_offset_s = _seconds_so_far(writer) - time.monotonic()
        self._waiting: collections.deque[tuple[int, dict]] = collections.deque()
        self._is_alarmed = self._is_storage_failing = False
        self.skips = 0  # in a row, up to the newest record written
        self.trouble_step: int | None = None

    def restart(self) -> None:
        """Forgets the records after the one that ended the run, to go on from an older state."""
        self._waiting.clear()
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
            if "heldout" in entry:
                entry |= heldout_metrics(entry.pop("heldout"))
                if number != self._last_step:  # arms are compared by their last losses
                    del entry["heldout_nats"], entry["heldout_bytes"]
            entry["seconds"] = self._clock_offset_s + time.monotonic()
            if self._writer is not None:
                self._writer.write(number, entry)
            self._bar.update(number, loss=float(entry["loss"]), max_logit=float(entry["max_logit"]))
            self._judge(number, entry)

    def _judge(self, number: int, entry: dict) -> None:
        error = self._storage_error
        if error is not None and not self._is_storage_failing:
            self._log.report(
                "storage_failed",
                f"metrics from step {number} on wait in memory ({error}); training "
                "goes on without new checkpoints until they can be written",
            )
        self._is_storage_failing = error is not None
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


def heldout_metrics(per_batch: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Bits per byte over the held-out text, with the standard error of sampling its sequences.

    Beside them the nats and bytes of every sequence, without those that fill up the last batch.
    """
    nats, num_bytes = (np.concatenate(x).astype(np.float64) for x in zip(*per_batch, strict=True))
    heldout = statistics.Heldout(nats[num_bytes > 0], num_bytes[num_bytes > 0])
    bpb, stderr = statistics.bits_per_byte(heldout)
    return {
        "heldout_bpb": bpb,
        "heldout_bpb_stderr": stderr,
        "heldout_nats": heldout.nats_S,
        "heldout_bytes": heldout.bytes_S,
    }


def _seconds_so_far(writer: metrics.MetricsWriter | None) -> float:
    """Time that earlier processes spent on the steps kept in the metrics file."""
    if writer is None:
        return 0.0
    seconds = metrics.read_metrics(writer.path).get("seconds")
    return 0.0 if seconds is None else float(seconds.values_N[-1])
