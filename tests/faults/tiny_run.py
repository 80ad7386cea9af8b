"""A tiny experiment through the real command line, in a process of its own that tests can hurt.

    python tests/faults/tiny_run.py --workdir=... [--set=...]

POISON=50,51 makes the loss mask of these batches (from 1) NaN. COMPILED names a folder for
compiled functions, which is what makes a second start take seconds. ROWS names a folder for a line
per row that this process loads: batch, row and a hash of its tokens.
"""

import hashlib
import os
import sys
import time
from pathlib import Path

import jax
import numpy as np
from absl import app

from kanana_jax import config, data, main
from kanana_jax.model import presets
from kanana_jax.train import compare

WORDS = ("muon", "clip", "polar", "express", "latent", "expert", "router", "logit", "\n")


def experiment(text: Path) -> config.Experiment:
    model = config.edit(
        presets.tiny(0),
        [
            "hidden_size=32",
            "num_layers=1",
            "num_dense_layers=0",
            "kv_lora_rank=16",
            "num_experts=4",
        ],
    )
    return config.Experiment(
        name="tiny",
        question="",
        model=model,
        data=config.DataConfig(paths=(str(text),), seq_len=32, batch_size=8),
        # tau is low so that QK-Clip acts and has a state to lose.
        optimizer=config.OptimizerConfig(
            polar="newton_schulz", polar_steps=2, polar_dtype="float32", lr=0.01, tau=0.5
        ),
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


def write_text(path: Path) -> Path:
    path.write_text(" ".join(np.random.default_rng(0).choice(WORDS, size=10_000)))
    return path


def poisoned(batches, numbers):
    """Makes the loss mask of the batches with these numbers NaN."""

    def start(corpus, cfg, *, start_step=0, rows=None):
        given = batches(corpus, cfg, start_step=start_step, rows=rows)
        for number, batch in enumerate(given, start_step + 1):
            bad = np.float32(np.nan if number in numbers else 1.0)
            time.sleep(float(os.environ.get("STEP_S", "0")))
            yield batch._replace(loss_mask=batch.loss_mask * bad)

    return start


def logged(batches, folder):
    """Writes down which rows this process loads."""

    def start(corpus, cfg, *, start_step=0, rows=None):
        path = Path(folder) / f"{jax.process_count()}-{jax.process_index()}-{os.getpid()}"
        given = batches(corpus, cfg, start_step=start_step, rows=rows)
        for number, batch in enumerate(given, start_step + 1):
            with path.open("a") as file:
                for row, tokens in zip(rows, batch.tokens, strict=True):
                    file.write(f"{number} {row} {hashlib.md5(tokens.tobytes()).hexdigest()}\n")
            yield batch

    return start


def _start() -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", int(os.environ.get("DEVICES", "1")))
    jax.config.update("jax_compilation_cache_dir", os.environ["COMPILED"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    numbers = {int(number) for number in os.environ.get("POISON", "").split(",") if number}
    if "ROWS" in os.environ:
        data.train_batches = logged(data.train_batches, os.environ["ROWS"])
    data.train_batches = poisoned(data.train_batches, numbers)
    main.load_experiment = lambda name: experiment(Path(os.environ["TEXT"]))
    compare.write_report = lambda exp, runs, workdir: "done"  # figures take longer than the run
    app.run(main.main)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    _start()
