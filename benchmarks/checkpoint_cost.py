"""What a checkpoint costs: how long training waits, how long the writing takes, and its hashing.

    python -m benchmarks.checkpoint_cost --mebibytes=256 --directory=/tmp

Random numbers in arrays of 4 MiB are saved --repeats times. One JSON line with medians: seconds
that the caller of `save` waited, seconds until the checkpoint was there, seconds of hashing in it,
all by the wall clock, and the part of the CPU time of a save that hashing took.
"""

import hashlib
import json
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags, logging

from kanana_jax import checkpoint

_MEBIBYTES = flags.DEFINE_integer("mebibytes", 256, "Size of the state.", lower_bound=4)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Saves that are timed.", lower_bound=1)
_DIRECTORY = flags.DEFINE_string("directory", None, "Where to write; default the system's.")


class Stopwatch:
    """Wall and CPU seconds spent in the functions that it wraps; nested calls count once."""

    def __init__(self):
        self.wall_s = self.cpu_s = 0.0
        self._is_running = False

    def wrap(self, fn):
        def timed(*args, **kwargs):
            if self._is_running:
                return fn(*args, **kwargs)
            self._is_running, wall_s, cpu_s = True, time.perf_counter(), time.thread_time()
            try:
                return fn(*args, **kwargs)
            finally:
                self.wall_s += time.perf_counter() - wall_s
                self.cpu_s += time.thread_time() - cpu_s
                self._is_running = False

        return timed


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    rng = np.random.default_rng(0)
    state = {
        f"array{index}": jax.numpy.asarray(rng.standard_normal(1 << 20, np.float32))
        for index in range(_MEBIBYTES.value // 4)
    }
    blake2b, rows = hashlib.blake2b, []
    with (
        tempfile.TemporaryDirectory(dir=_DIRECTORY.value) as name,
        checkpoint.Checkpoints(Path(name), keep=1, report=print) as saved,
    ):
        for step in range(_REPEATS.value + 1):
            hashing = Stopwatch()
            hashlib.blake2b = hashing.wrap(blake2b)
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            saved.save(step, state, {})
            waited_s = time.perf_counter() - wall_s
            saved.wait()
            total_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
            assert saved.steps() == [step] and hashing.wall_s > 0
            rows.append((waited_s, total_s, hashing.wall_s, hashing.cpu_s / cpu_s))
    waited_s, total_s, hash_s, hash_share = map(statistics.median, zip(*rows[1:], strict=True))
    print(
        json.dumps(
            {
                "mebibytes": _MEBIBYTES.value,
                "training_waits_s": round(waited_s, 3),
                "save_s": round(total_s, 3),
                "hashing_s": round(hash_s, 3),
                "hashing_percent_of_cpu": round(100 * hash_share, 1),
            }
        )
    )


if __name__ == "__main__":
    app.run(main)
