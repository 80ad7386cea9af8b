"""One training run: config -> data -> model -> loss -> gradient -> optim -> state -> checkpoint.

Batches are a pure function of (seed, number) and the checkpoint holds everything else, so running
the same call again continues where a killed run stopped, with the same numbers. Several processes
make this call together: all train and save, process 0 writes everything else.
"""

import contextlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from kanana_jax import checkpoint, config, data, parallel
from kanana_jax.report import metrics, progress, results
from kanana_jax.workdir import events, provenance, recorder, run_record, signals, storage
from kanana_jax.train import loss, resume
from kanana_jax.train import step as step_lib

_WINDOW = 10  # losses over which a run's start and end are judged


class _Parts(NamedTuple):
    """What a run is made of."""

    exp: config.Experiment
    corpus: data.Corpus
    mesh: Mesh
    steps: step_lib.Steps
    saved: checkpoint.Checkpoints
    records: recorder.Recorder
    log: events.Events
    stop: signals.StopRequest


def run(
    exp: config.Experiment,
    corpus: data.Corpus,
    directory: Path,
    mesh: Mesh,
    steps: step_lib.Steps,
    *,
    arm: str,
    sweep: progress.Sweep,
    index: int = 1,
    stop: signals.StopRequest | None = None,
) -> None:
    """Trains `exp` in `directory` until done or diverged; leaves result.json behind.

    `steps` are those built for `exp` and `mesh`; `index` is the run's place in `sweep`, for the
    progress bar. Raises signals.Stopped, with all saved, once `stop` is set.
    """
    log, stop = events.Events(directory), stop or signals.StopRequest()
    with (
        checkpoint.Checkpoints(
            checkpoint.place_of(exp.train.checkpoint_dir, exp.name, directory),
            keep=exp.train.keep_checkpoints,
            report=log.report,
            on_saved=lambda step: run_record.note_saved(directory, step),
        ) as saved,
        _writer_of_first(directory) as writer,
    ):
        at = resume.latest(saved, steps, mesh, exp.train.seed, log)
        if writer is not None:
            writer.truncate_after(at.step)
        label = f"{arm} lr {progress.rate(exp.optimizer.lr)} seed {exp.train.seed}"
        with (
            sweep.run(
                index,
                label,
                num_steps=exp.train.num_steps,
                start_step=at.step,
                tokens_per_step=exp.data.batch_size * exp.data.seq_len,
            ) as bar,
            stop.holding(),
        ):
            records = recorder.Recorder(exp.guard, writer, bar, log, last_step=exp.train.num_steps)
            parts = _Parts(exp, corpus, mesh, steps, saved, records, log, stop)
            _advance(parts, at)
            while records.trouble_step is not None and at.rewinds < _rewinds_allowed(exp):
                good = resume.latest(saved, steps, mesh, exp.train.seed, log)
                at = resume.rewind(at, good, records.trouble_step)
                log.report("rewind", _describe_rewind(at, records.trouble_step))
                if writer is not None:
                    writer.truncate_after(at.step)
                records.restart()
                _advance(parts, at)

    def finish() -> None:
        if records.trouble_step is None:
            storage.expect_last_checkpoint(directory, saved.steps(), exp.train.num_steps)
        _write_result(exp, arm, directory, records.trouble_step, corpus.fingerprint)

    parallel.on_first(finish)


def _advance(parts: _Parts, at: resume.Position) -> None:
    """Trains on from `at` to the last step, or to the first that is in trouble."""
    exp, corpus, steps, records = parts.exp, parts.corpus, parts.steps, parts.records
    last, state, size = exp.train.num_steps, at.state, exp.data.batch_size
    rows = parallel.local_rows(parts.mesh, size)
    heldout = [
        _to_devices(parts.mesh, batch, size)
        for batch in data.heldout_batches(corpus, exp.data, exp.train.eval_batches, rows=rows)
    ]
    start = at.step + at.skipped_batches
    batches = data.train_batches(corpus, exp.data, start_step=start, rows=rows)
    asked_to_stop = parallel.AnyProcess()
    # Each took its own time to compile and to read, and a first collective does not wait long.
    parallel.everyones("ready")
    for number in range(at.step + 1, last + 1):
        batch = _to_devices(parts.mesh, next(batches), size)
        state, entry = steps.train(state, batch, exp.optimizer.lr)
        if exp.guard.enabled:
            entry |= {"skipped_batches": at.skipped_batches, "rewinds": at.rewinds}
        if _is_due(number, exp.train.diagnostics_interval_steps, last):
            entry |= steps.diagnose(state.params, state.opt_state)
        if _is_due(number, exp.train.eval_interval_steps, last):
            entry["heldout"] = [
                steps.evaluate(state.params, state.router_bias, batch) for batch in heldout
            ]
        records.push(number, entry)
        is_stopping = asked_to_stop(parts.stop.is_set) and number < last
        if is_stopping or _is_due(number, exp.train.checkpoint_interval_steps, last):
            # What a checkpoint claims was done must be in the metrics file first.
            records.flush()
            if all(parallel.everyones(records.may_save(is_last=number == last))):
                parts.saved.save(number, state, at.notes(parts.mesh))
        if records.trouble_step is not None:
            return
        if is_stopping:
            parts.saved.wait()
            newest = max(parts.saved.steps(), default=0)
            parts.log.report(
                "stopped", f"after step {number}; the same command goes on from {newest}"
            )
            raise signals.Stopped


def _writer_of_first(directory: Path):
    """Process 0 keeps the metrics; the others get None."""
    return metrics.MetricsWriter(directory) if parallel.is_first() else contextlib.nullcontext()


def _rewinds_allowed(exp: config.Experiment) -> int:
    return exp.guard.max_rewinds if exp.guard.enabled else 0


def _describe_rewind(at: resume.Position, trouble_step: int) -> str:
    return (
        f"number {at.rewinds}: from step {trouble_step} back to step {at.step}; the batches of "
        f"steps {at.step + 1} to {trouble_step} are left out ({at.skipped_batches} so far)"
    )


def _to_devices(mesh: Mesh, batch: data.Batch, batch_size: int) -> loss.DeviceBatch:
    return loss.DeviceBatch(*parallel.shard_batch(mesh, batch, batch_size))


def _is_due(number: int, interval: int, last: int) -> bool:
    return number % interval == 0 or number == last


def _write_result(
    exp: config.Experiment, arm: str, directory: Path, diverged_step: int | None, text: str
) -> None:
    """Sums the run up from its metrics file, so that a resumed run gives the same result.

    A run that took over the last checkpoint of another machine has no metrics to sum up.
    """
    columns = metrics.read_metrics(directory / metrics.METRICS_NAME)
    losses_N = columns["loss"].values_N if "loss" in columns else np.zeros(0)
    if exp.guard.enabled and np.any(np.isfinite(losses_N)):
        losses_N = losses_N[np.isfinite(losses_N)]  # the others' steps changed nothing
    if diverged_step is None and _is_diverged(losses_N, exp.model.vocab_size):
        diverged_step = exp.train.num_steps

    def last_of(name: str) -> float | None:
        return float(columns[name].values_N[-1]) if name in columns else None

    result = {
        "arm": arm,
        "optimizer": exp.optimizer.name,
        "lr": exp.optimizer.lr,
        "seed": exp.train.seed,
        "status": "ok" if diverged_step is None else "diverged",
        "diverged_step": diverged_step,
        "tau": exp.optimizer.tau,
        "clips": exp.optimizer.name == "muonclip",
        "num_steps": exp.train.num_steps,
        "seconds": last_of("seconds"),
        "heldout_text": f"{text}, {exp.train.eval_batches * exp.data.batch_size} sequences of "
        f"{exp.data.seq_len}",
        "initial_loss": float(losses_N[0]) if losses_N.size else None,
        "final_loss": float(np.mean(losses_N[-_WINDOW:])) if losses_N.size else None,
        "final_heldout_bpb": last_of("heldout_bpb"),
        "final_heldout_bpb_stderr": last_of("heldout_bpb_stderr"),
    }
    record.write_whole(directory / results.RESULT_NAME, json.dumps(result, indent=2))


def _is_diverged(losses_N: Float[np.ndarray, "N"], vocab_size: int) -> bool:
    """Whether training ended well above its start, by more than batches differ.

    That is: each of the last 10 losses exceeds each of the first 10, and their mean by a quarter;
    or, when it broke within the first 10 steps, their median is twice the first loss and twice
    that of guessing tokens evenly. A flat loss is neither, whichever batch came first.
    """
    if not losses_N.size:
        return False
    first, last = losses_N[:_WINDOW], losses_N[-_WINDOW:]
    if not np.all(np.isfinite(last)):
        return True
    has_risen = last.min() > first.max() and last.mean() > 1.25 * first.mean()
    is_lost = np.median(last) > 2 * max(losses_N[0], np.log(vocab_size))
    return bool(is_lost or (has_risen and losses_N.size >= 2 * _WINDOW))
