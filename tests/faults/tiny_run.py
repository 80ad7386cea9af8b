"""A tiny experiment that tests run through the real command line, and hurt.

    TEXT=words.txt python -m kanana_jax.main --experiment=tests/faults/tiny_run.py --workdir=...

Environment, beside TEXT: POISON=50,51 makes the loss mask of these batches (from 1) NaN. ROWS names
a folder for a line per row that this process loads: batch, row and a hash of its tokens. STEP_S are
seconds that every batch takes longer. KILL=23 ends the process's work before that batch.
"""

import hashlib
import os
import time
from pathlib import Path

import jax
import numpy as np
import tiny_jobs

from kanana_jax import config
from kanana_jax.jobs import pretrain, training
from kanana_jax.workdir import Run


def experiment() -> pretrain.Config:
    return configuration(Path(os.environ["TEXT"]))


def configuration(text: Path) -> pretrain.Config:
    return tiny_jobs.pretraining(
        text,
        name="tiny",
        train=config.TrainConfig(
            num_steps=60,
            eval_interval_steps=20,
            eval_batches=1,
            diagnostics_interval_steps=20,
            checkpoint_interval_steps=10,
        ),
        guard=config.GuardConfig(window_steps=16),
        mesh=config.MeshConfig(data=1, fsdp=-1),
    )


class HurtSource:
    """Batches of another source, as the environment says."""

    def __init__(self, source, rows):
        self._source, self._rows = source, rows
        self.fingerprint = source.fingerprint
        self._poisoned = {int(one) for one in os.environ.get("POISON", "").split(",") if one}
        self._delay_s = float(os.environ.get("STEP_S", "0"))
        self._last = int(os.environ.get("KILL", "0"))
        self._log = os.environ.get("ROWS")

    def batch(self, number, weights):
        if number + 1 == self._last:
            raise tiny_jobs.Killed
        time.sleep(self._delay_s)
        batch = self._source.batch(number, weights)
        if self._log is not None:
            self._write_down(number + 1, batch)
        if number + 1 in self._poisoned:
            batch = batch._replace(loss_mask=batch.loss_mask * np.float32(np.nan))
        return batch

    def _write_down(self, number, batch):
        """Which rows this process loads."""
        path = Path(self._log) / f"{jax.process_count()}-{jax.process_index()}-{os.getpid()}"
        with path.open("a") as file:
            for row, tokens in zip(self._rows, batch.tokens, strict=True):
                file.write(f"{number} {row} {hashlib.md5(tokens.tobytes()).hexdigest()}\n")


def _source(corpus, cfg, stages, built):
    return HurtSource(pretrain.JOB.source(corpus, cfg, stages, built), stages[0].rows)


JOB = pretrain.JOB._replace(source=_source)


def run(cfg: pretrain.Config, workdir: Path) -> None:
    """Without a report, whose figures take longer than the run."""
    only = Run({}, cfg, workdir / "run")
    training.run_all(JOB, training.Plan(cfg, {}, [only], lambda *_: "done"), workdir)
