"""One training run: config -> data -> model -> loss -> gradient -> optim -> state -> checkpoint.

Batches are a pure function of (seed, step) and the checkpoint holds everything else, so running
the same call again continues where a killed run stopped, with the same numbers.
"""

import collections
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from kanana_jax import checkpoint, config, data, parallel, report
from kanana_jax.train import step as step_lib

# Records wait this many steps before they are fetched, so that the device is never waited for.
_LAG_STEPS = 8


def run(
    exp: config.Experiment, corpus: data.Corpus, directory: Path, mesh: Mesh, progress: Any
) -> None:
    """Trains `exp` in `directory` until done or diverged; leaves result.json behind."""
    steps = step_lib.build(exp, mesh)
    heldout = [
        parallel.shard_batch(mesh, batch)
        for batch in data.heldout_batches(corpus, exp.data, exp.train.eval_batches)
    ]
    directory.mkdir(parents=True, exist_ok=True)
    with (
        checkpoint.Checkpoints(directory / "checkpoints", keep=exp.train.keep_checkpoints) as saved,
        report.MetricsWriter(directory) as metrics,
    ):
        start = saved.latest_step() or 0
        state = saved.restore(start, steps.like) if start else steps.init(exp.train.seed)
        metrics.truncate_after(start)
        recorder = _Recorder(metrics, progress)
        progress.start(done=start, total=exp.train.num_steps)
        batches = data.train_batches(corpus, exp.data, start_step=start)
        for number, batch in zip(range(start + 1, exp.train.num_steps + 1), batches, strict=False):
            state, record = steps.train(
                state, parallel.shard_batch(mesh, batch), exp.optimizer.lr
            )
            if _due(number, exp.train.diagnostics_interval_steps, exp.train.num_steps):
                record |= steps.diagnose(state)
            if _due(number, exp.train.eval_interval_steps, exp.train.num_steps):
                record["heldout"] = [steps.evaluate(state, batch) for batch in heldout]
            recorder.push(number, record)
            if _due(number, exp.train.checkpoint_interval_steps, exp.train.num_steps):
                recorder.flush()
                if recorder.diverged_step is None:
                    saved.save(number, state)
            if recorder.diverged_step is not None:
                break
        recorder.flush()
    _write_result(exp, directory, recorder.diverged_step)


def _due(number: int, interval: int, last: int) -> bool:
    return number % interval == 0 or number == last


class _Recorder:
    """Writes step records a few steps late; stops at the first loss that is not finite."""

    def __init__(self, metrics: report.MetricsWriter, progress: Any):
        self._metrics, self._progress = metrics, progress
        self._waiting: collections.deque[tuple[int, dict]] = collections.deque()
        self.diverged_step: int | None = None

    def push(self, number: int, record: dict):
        self._waiting.append((number, record))
        self.flush(keep=_LAG_STEPS)

    def flush(self, keep: int = 0):
        while len(self._waiting) > keep and self.diverged_step is None:
            number, record = self._waiting.popleft()
            record = jax.device_get(record)
            if "heldout" in record:
                record |= _heldout_metrics(record.pop("heldout"))
            self._metrics.write(number, record)
            self._progress.update(
                number, loss=float(record["loss"]), max_logit=float(record["max_logit"])
            )
            if not math.isfinite(record["loss"]):
                self.diverged_step = number


def _heldout_metrics(per_batch: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Bits per byte over the held-out text, with the standard error of sampling its sequences."""
    nats, num_bytes = (np.concatenate(x).astype(np.float64) for x in zip(*per_batch, strict=True))
    bpb = nats.sum() / num_bytes.sum() / math.log(2)
    residual = nats / math.log(2) - bpb * num_bytes  # ratio estimator, linearised
    stderr = math.sqrt(len(nats) * residual.var(ddof=1)) / num_bytes.sum()
    return {"heldout_bpb": bpb, "heldout_bpb_stderr": stderr}


def _write_result(exp: config.Experiment, directory: Path, diverged_step: int | None) -> None:
    """Sums the run up from its metrics file, so that a resumed run gives the same result."""
    columns = report.read_metrics(directory / "metrics.jsonl")
    initial, final = columns["loss"].values[0], np.mean(columns["loss"].values[-10:])
    if diverged_step is None and not final < initial:
        diverged_step = exp.train.num_steps
    heldout = columns.get("heldout_bpb")
    result = {
        "lr": exp.optimizer.lr,
        "seed": exp.train.seed,
        "status": "ok" if diverged_step is None else "diverged",
        "diverged_step": diverged_step,
        "initial_loss": float(initial),
        "final_loss": float(final),
        "final_heldout_bpb": None if heldout is None else float(heldout.values[-1]),
    }
    temporary = directory / "result.json.tmp"
    temporary.write_text(json.dumps(result, indent=2))
    os.replace(temporary, directory / "result.json")
