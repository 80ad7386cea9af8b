"""The folder of one run while it is worked on: checkpoints, metrics, events, a request to stop.

DIR/run.json, saved.json    whose it is, and the newest step saved (`run_record`)
DIR/metrics.jsonl           a line per step, mirrored to tensorboard/
DIR/events.jsonl            what went wrong and what was done about it
DIR/checkpoints/            unless train.checkpoint_dir names another place
DIR/result.json             {status, diverged_step, steps, seconds, axes, values}, once it ended
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kanana_jax import checkpoint, parallel
from kanana_jax.report import metrics, progress, results
from kanana_jax.workdir import provenance, run_record, signals
from kanana_jax.workdir.clock import Clock, alive_s, kept_alive, take_uncounted
from kanana_jax.workdir.events import Events
from kanana_jax.workdir.profiler import Profiler
from kanana_jax.workdir.recorder import Recorder, Work


class Workdir:
    """What `train.fit` works with. Made by `opened`."""

    def __init__(
        self,
        one: run_record.Run,
        stop: signals.StopRequest,
        checkpoints: checkpoint.Checkpoints,
        writer: metrics.MetricsWriter | None,
        recorder: Recorder,
        bar: progress.Progress,
        log: Events,
        clock: Clock,
    ):
        self.directory, self.checkpoints, self.clock = one.directory, checkpoints, clock
        self.report = log.report
        self.profiler = Profiler(one.directory / "profile", one.config.profile.steps)
        self._axes, self._stop, self._bar = one.axes, stop, bar
        self._writer, self._recorder = writer, recorder
        self._alive_s = alive_s(one.directory)  # when an earlier process was last seen at work
        self._last_step = one.config.train.num_steps

    def begin(self, step: int) -> None:
        """Called once before training goes on from `step`."""
        self.clock.started()
        if self._writer is not None:
            kept, newest = metrics.read_records(self.directory / metrics.METRICS_NAME, step)
            self.clock.continue_from(newest, kept, self._alive_s)
        self._bar.start(step)
        self._keep_until(step)

    def rewind(self, step: int) -> None:
        """Drops what was recorded after `step`."""
        self._recorder.restart(num_undone=(self.trouble_step or step) - step)
        self._keep_until(step)

    def _keep_until(self, step: int) -> None:
        if self._writer is not None:
            self._writer.truncate_after(step)

    def record(self, number: int, entry: dict[str, Any]) -> None:
        """Records a step; values may still be on their way from the device."""
        self._recorder.push(number, entry)

    @property
    def trouble_step(self) -> int | None:
        """The step from which training cannot go on, once one is known."""
        return self._recorder.trouble_step

    def is_asked_to_stop(self) -> bool:
        return self._stop.is_set

    def save(self, step: int, state: Any, notes: dict[str, Any], *, is_last: bool) -> None:
        """Makes a checkpoint, unless `state` is not to be trusted or the disk takes no metrics."""
        with self.clock.spent("saving"):
            # What a checkpoint claims was done must be in the metrics file first.
            self._recorder.flush()
            if all(parallel.everyones(self._recorder.may_save(is_last=is_last))):
                self.checkpoints.save(step, state, notes)

    def stopped(self, step: int) -> None:
        """Reports that the run ends early; raises signals.Stopped once all is saved."""
        self.checkpoints.wait()
        newest = max(self.checkpoints.steps(), default=0)
        self.report("stopped", f"after step {step}; the same command goes on from {newest}")
        raise signals.Stopped

    def finish(
        self,
        status: str,
        values: Mapping[str, Any],
        *,
        seconds: float | None,
        diverged_step: int | None = None,
    ) -> None:
        """Writes how the run ended. `values` are numbers and text."""
        result = {
            "status": status,
            "diverged_step": diverged_step,
            "steps": self._last_step,
            "seconds": seconds,
            "axes": self._axes,
            "values": dict(values),
        }
        text = json.dumps(result, indent=2)
        provenance.write_whole(self.directory / results.RESULT_NAME, text)


@contextlib.contextmanager
def opened(
    one: run_record.Run,
    stop: signals.StopRequest,
    bar: progress.Progress,
    work: Sequence[Work],
    *,
    compile_s: float = 0.0,
) -> Iterator[Workdir]:
    """Opens the folder of `one` for training. `work` is the work of a step in each stage.

    `compile_s` is the time that `one` waited for compilation. Inside, a signal only asks to stop.
    """
    log, clock, train = Events(one.directory), Clock(), one.config.train
    clock.add_earlier("compiling", compile_s)
    clock.add_earlier("starting", max(0.0, take_uncounted() - compile_s))
    where = checkpoint.place_of(train.checkpoint_dir, one.config.name, one.directory)
    with (
        checkpoint.Checkpoints(
            where,
            keep=train.keep_checkpoints,
            report=log.report,
            on_saved=lambda step: run_record.note_saved(one.directory, step),
        ) as checkpoints,
        _writer_of_first(one.directory) as writer,
        bar,
        stop.holding(),
    ):
        recorder = Recorder(one.config.guard, writer, bar, log, clock, work)
        workdir = Workdir(one, stop, checkpoints, writer, recorder, bar, log, clock)
        with contextlib.closing(workdir.profiler), _alive(writer, one.directory, clock):
            yield workdir
    take_uncounted()


def _alive(
    writer: metrics.MetricsWriter | None, directory: Path, clock: Clock
) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext() if writer is None else kept_alive(directory, clock)


def _writer_of_first(directory: Path):
    """Process 0 keeps the metrics; the others get None."""
    return metrics.MetricsWriter(directory) if parallel.is_first() else contextlib.nullcontext()
