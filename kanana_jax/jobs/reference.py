"""Log-probabilities under the weights before training, found once and kept in the data's cache.

    CACHE/reference-NAME.npz        NAME: digest of the corpus, of the weights' bytes, of the model

The file has a number for every token of the corpus as a target, held-out ones too. Batches carry
the numbers of their targets, so a step needs no reference weights and no forward pass of them. A
run that goes on reads the file; where it is gone or damaged it is made again from the same weights.
"""

import pathlib
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float32

from kanana_jax import config, model, parallel
from kanana_jax.data import StoreError, cache_files, column_file
from kanana_jax.data.whole_documents import WholeDocuments
from kanana_jax.jobs.job import Built, Start
from kanana_jax.train import digest

_FORMAT = 1


def column(
    corpus: WholeDocuments, cfg: config.DataConfig, built: Built, start: Start
) -> Float32[np.ndarray, "T"]:
    """The number of every token. All processes call it together."""
    weights = start.first_weights()
    path = _path(corpus, built, weights, start.cache_dir)
    found = _read(path, corpus, start.report)
    # Each process may have its own disk; the pass below needs all processes.
    if not all(parallel.everyones(found is not None)):
        found = _one_pass(corpus, cfg, built, weights)
        column_file.save(path, found)
        start.report("reference", f"{len(found):,} log-probabilities of the reference in {path}")
    assert found is not None
    return found


def _path(
    corpus: WholeDocuments, built: Built, weights: model.Weights, cache_dir: pathlib.Path
) -> pathlib.Path:
    made = built.steps.cfg
    parts = (_FORMAT, corpus.fingerprint, digest.of_weights(weights, built.mesh))
    # The same bytes are another function in another shape or precision.
    numbers = made.execution.compute_dtype, made.execution.precision
    name = cache_files.digest(*parts, repr(made.model), *numbers)
    return cache_dir / f"reference-{name}.npz"


def _read(
    path: pathlib.Path, corpus: WholeDocuments, report: Callable[[str, str], None]
) -> Float32[np.ndarray, "T"] | None:
    if not path.exists():
        return None
    try:
        return column_file.load(path, len(corpus.examples.tokens_T))
    except StoreError as error:
        report("reference", f"{error}; it is made again")
        return None


def _one_pass(
    corpus: WholeDocuments, cfg: config.DataConfig, built: Built, weights: model.Weights
) -> Float32[np.ndarray, "T"]:
    found_T = np.zeros(len(corpus.examples.tokens_T), np.float32)
    for batch, places in corpus.every_example(cfg, built.rows(cfg.batch_size)):
        logp_BS = jax.device_get(built.steps.logp(weights, built.place(batch, cfg.batch_size)))
        for row, of_row in enumerate(places):
            found_T[of_row] = logp_BS[row, : len(of_row)]
    return found_T
