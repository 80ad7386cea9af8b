"""Outputs of a teacher for every batch of a run, computed once and kept in the data's cache.

    CACHE/teacher-NAME/        NAME: digest of the batches, of the teacher and of what is read of it

The pass is made before the first step; then the teacher is no longer held. A run that goes on reads
the store. Each process has a store of its own, with the rows that it loads.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kanana_jax import config, model, parallel
from kanana_jax.batch import Batch
from kanana_jax.data import StoreError, cache_files, teacher_store
from kanana_jax.jobs.job import Built, Start
from kanana_jax.objectives.soft_targets import Divergence
from kanana_jax.train import choices, digest, fit
from kanana_jax.train import teacher as teacher_lib


class TaughtSource:
    """Batches of another source, which reads no weights, with the columns of a stored teacher.

    Batches that a rewind leaves out are made up for by the first ones.
    """

    def __init__(self, source: fit.Source, store: teacher_store.TeacherStore, num_batches: int):
        self._source, self._store, self._num_batches = source, store, num_batches
        self.fingerprint = source.fingerprint

    def batch(self, number: int, weights: model.Weights) -> Batch:
        number %= self._num_batches
        batch = self._source.batch(number, weights)
        return batch._replace(extra={**batch.extra, **self._store.batch(number)})


class Teacher(NamedTuple):
    """A teacher that is not held."""

    shape: config.ModelConfig
    load: Callable[[], model.Weights]


def source(
    of_text: fit.Source,
    cfg: config.DataConfig,
    num_batches: int,
    built: Built,
    start: Start,
    teacher: Teacher,
) -> TaughtSource:
    """`of_text` with the teacher's outputs. All processes call it together."""
    weights = teacher.load()
    of_batches = (of_text.fingerprint, cfg.seed, cfg.seq_len, cfg.batch_size, cfg.weights)
    path = start.cache_dir / _name(built, teacher.shape, weights, (*of_batches, num_batches))
    found = _opened(path, start.report)
    # Each process may have its own disk; the pass below needs all processes.
    if not all(parallel.everyones(found is not None)):
        batches = (of_text.batch(number, weights) for number in range(num_batches))
        owner = cache_files.digest(str(built.directory.absolute()))
        teacher_store.write(path, _read(batches, cfg, built, teacher.shape, weights), owner)
        start.report("teacher", f"what is read of it for {num_batches} batches is in {path}")
        found = teacher_store.opened(path)
    assert found is not None
    return TaughtSource(of_text, found, num_batches)


def _name(
    built: Built, shape: config.ModelConfig, weights: model.Weights, of_batches: tuple
) -> str:
    of_teacher = (digest.of_weights(weights, built.mesh), repr(shape))
    execution = built.steps.cfg.execution
    of_reading = (repr(_divergence(built)), execution.compute_dtype, execution.precision)
    of_process = (jax.process_index(), jax.process_count())
    parts = (teacher_store.FORMAT, of_batches, of_teacher, of_reading, of_process)
    return f"teacher-{cache_files.digest(*parts)}"


def _opened(path: Path, report: Callable[[str, str], None]) -> teacher_store.TeacherStore | None:
    if not path.exists():
        return None
    try:
        return teacher_store.opened(path)
    except StoreError as error:
        report("teacher", f"{error}; it is made again")
        return None


def _read(
    batches: Iterable[Batch],
    cfg: config.DataConfig,
    built: Built,
    shape: config.ModelConfig,
    weights: model.Weights,
) -> Iterator[Mapping[str, np.ndarray]]:
    rows, divergence = built.rows(cfg.batch_size), _divergence(built)
    read = _compiled(divergence, shape, built.steps.cfg.execution, built.mesh)
    for number, batch in enumerate(batches):
        rng = np.random.default_rng((cfg.seed, number))
        uniform = rng.random((cfg.batch_size, cfg.seq_len, divergence.num_draws), np.float32)
        with jax.set_mesh(built.mesh):
            found = read(weights, *built.place((batch, uniform[rows]), cfg.batch_size))
        yield {name: np.asarray(column)[rows] for name, column in jax.device_get(found).items()}


def _divergence(built: Built) -> Divergence:
    teaching = built.objective.teaching
    assert teaching is not None
    return teaching.divergence


@functools.lru_cache(maxsize=2)
def _compiled(
    divergence: Divergence,
    shape: config.ModelConfig,
    execution: config.ExecutionConfig,
    mesh: jax.sharding.Mesh,
) -> Callable[..., Mapping[str, Any]]:
    read = functools.partial(
        teacher_lib.read,
        divergence=divergence,
        cfg=shape,
        execution=execution,
        chunk_tokens=choices.chunk_tokens(execution),
    )
    return jax.jit(read, out_shardings=NamedSharding(mesh, P()))
