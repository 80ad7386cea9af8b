"""One training run: config -> data -> model -> loss -> gradient -> optim -> state -> checkpoint.

Batches are a pure function of (seed, step) and the checkpoint holds everything else, so running
the same call again continues where a killed run stopped, with the same numbers.
"""

import collections
import json
import math
import time
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from kanana_jax import checkpoint, config, data, parallel
from kanana_jax.report import metrics, progress, results
from kanana_jax.train import loss, record
from kanana_jax.train import step as step_lib

# Records wait this many steps before they are fetched, so that the device is never waited for.
_LAG_STEPS = 8


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
) -> None:
    """Trains `exp` in `directory` until done or diverged; leaves result.json behind.

    `steps` are those built for `exp` and `mesh`; `index` is the run's place in `sweep`, for the
    progress bar.
    """
    heldout = [
        _to_devices(mesh, batch)
        for batch in data.heldout_batches(corpus, exp.data, exp.train.eval_batches)
    ]
    last = exp.train.num_steps
    with (
        checkpoint.Checkpoints(directory / "checkpoints", keep=exp.train.keep_checkpoints) as saved,
        metrics.MetricsWriter(directory) as writer,
    ):
        start = saved.latest_step() or 0
        state = saved.restore(start, steps.like) if start else steps.init(exp.train.seed)
        writer.truncate_after(start)
        label = f"{arm} lr {exp.optimizer.lr:g} seed {exp.train.seed}"
        tokens = exp.data.batch_size * exp.data.seq_len
        with sweep.run(
            index, label, num_steps=last, start_step=start, tokens_per_step=tokens
        ) as bar:
            recorder = _Recorder(writer, bar, _seconds_so_far(directory))
            batches = data.train_batches(corpus, exp.data, start_step=start)
            for number in range(start + 1, last + 1):
                batch = _to_devices(mesh, next(batches))
                state, entry = steps.train(state, batch, exp.optimizer.lr)
                if _is_due(number, exp.train.diagnostics_interval_steps, last):
                    entry |= steps.diagnose(state.params, state.opt_state)
                if _is_due(number, exp.train.eval_interval_steps, last):
                    entry["heldout"] = [
                        steps.evaluate(state.params, state.router_bias, batch) for batch in heldout
                    ]
                recorder.push(number, entry)
                if _is_due(number, exp.train.checkpoint_interval_steps, last):
                    # What a checkpoint claims was done must be in the metrics file first.
                    recorder.flush()
                    if recorder.diverged_step is None:
                        saved.save(number, state)
                if recorder.diverged_step is not None:
                    break
    _write_result(exp, arm, directory, recorder.diverged_step)


def _to_devices(mesh: Mesh, batch: data.Batch) -> loss.DeviceBatch:
    return loss.DeviceBatch(*parallel.shard_batch(mesh, batch))


def _is_due(number: int, interval: int, last: int) -> bool:
    return number % interval == 0 or number == last


class _Recorder:
    """Writes step records a few steps late; stops at the first loss that is not finite."""

    def __init__(self, writer: metrics.MetricsWriter, bar: progress.Progress, earlier_s: float):
        self._writer, self._bar = writer, bar
        self._clock_offset_s = earlier_s - time.monotonic()
        self._waiting: collections.deque[tuple[int, dict]] = collections.deque()
        self.diverged_step: int | None = None

    def push(self, number: int, entry: dict) -> None:
        self._waiting.append((number, entry))
        self.flush(keep=_LAG_STEPS)

    def flush(self, keep: int = 0) -> None:
        while len(self._waiting) > keep and self.diverged_step is None:
            number, entry = self._waiting.popleft()
            entry = jax.device_get(entry)
            if "heldout" in entry:
                entry |= _heldout_metrics(entry.pop("heldout"))
            entry["seconds"] = self._clock_offset_s + time.monotonic()
            self._writer.write(number, entry)
            self._bar.update(number, loss=float(entry["loss"]), max_logit=float(entry["max_logit"]))
            if not math.isfinite(entry["loss"]):
                self.diverged_step = number


def _seconds_so_far(directory: Path) -> float:
    """Time that earlier processes spent on the steps kept in the metrics file."""
    seconds = metrics.read_metrics(directory / metrics.METRICS_NAME).get("seconds")
    return 0.0 if seconds is None else float(seconds.values_N[-1])


def _heldout_metrics(per_batch: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Bits per byte over the held-out text, with the standard error of sampling its sequences."""
    nats, num_bytes = (np.concatenate(x).astype(np.float64) for x in zip(*per_batch, strict=True))
    bpb = nats.sum() / num_bytes.sum() / math.log(2)
    residual = nats / math.log(2) - bpb * num_bytes  # of the ratio estimator, linearised
    stderr = math.sqrt(len(nats) * residual.var(ddof=1)) / num_bytes.sum()
    return {"heldout_bpb": bpb, "heldout_bpb_stderr": stderr}


def _write_result(
    exp: config.Experiment, arm: str, directory: Path, diverged_step: int | None
) -> None:
    """Sums the run up from its metrics file, so that a resumed run gives the same result."""
    columns = metrics.read_metrics(directory / metrics.METRICS_NAME)
    losses = columns["loss"].values_N
    initial, final = float(losses[0]), float(np.mean(losses[-10:]))
    if diverged_step is None and not final < initial:
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
        "initial_loss": initial,
        "final_loss": final,
        "final_heldout_bpb": last_of("heldout_bpb"),
        "final_heldout_bpb_stderr": last_of("heldout_bpb_stderr"),
    }
    record.write_whole(directory / results.RESULT_NAME, json.dumps(result, indent=2))
