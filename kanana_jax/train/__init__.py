"""Training: `run(experiment, workdir)` does everything from the corpus to the report."""

from kanana_jax.data import DataError
from kanana_jax.train.compare import run

__all__ = ["DataError", "run"]
