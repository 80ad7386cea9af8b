"""Held-out conversations by source: the share of tokens that the model would have said.

    token accuracy = share of trained tokens that have the largest logit
    share trained  = share of the trained tokens of a run that come from a source

`heldout.bits_per_byte` gives bits per byte by source. As there, names end in the label of a
source; that of the accuracy over all sources does not.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from kanana_jax import config, model
from kanana_jax.batch import Batch
from kanana_jax.data.whole_documents import WholeDocuments
from kanana_jax.jobs import heldout
from kanana_jax.jobs.job import Built
from kanana_jax.train import choices, fit, head
from kanana_jax.train.step_config import StepConfig


def evaluators(
    corpus: WholeDocuments, cfg: config.DataConfig, train: config.TrainConfig, built: Built
) -> tuple[fit.Evaluator, ...]:
    """Bits per byte and accuracy of the assistant's held-out text, in all and of each source."""
    batches = corpus.heldout_batches(cfg, train.eval_batches, built.rows(cfg.batch_size))
    placed = [built.place(batch, cfg.batch_size) for batch in batches]
    sources = heldout.Sources(
        names=corpus.names, source_S=corpus.heldout_sources(cfg, train.eval_batches)
    )
    every = train.eval_interval_steps
    shares = dict(zip(sources.labels, corpus.trained_shares(cfg), strict=True))
    accuracy = _token_accuracy(placed, every, built, sources, shares)
    return heldout.bits_per_byte(placed, every, built, sources), accuracy


def _token_accuracy(
    placed: Sequence[Batch],
    every: int,
    built: Built,
    sources: heldout.Sources,
    shares: Mapping[str, float],
) -> fit.Evaluator:
    counted = _compiled(built.steps.cfg, built.mesh)

    def measure(weights: model.Weights) -> Mapping[str, Any]:
        with jax.set_mesh(built.mesh):
            per_batch = jax.device_get([counted(weights, batch) for batch in placed])
        return summarize(per_batch, sources, shares)

    return fit.Evaluator("heldout_token_accuracy", every, measure)


def summarize(
    per_batch: Sequence[tuple[np.ndarray, np.ndarray]],
    sources: heldout.Sources,
    shares: Mapping[str, float],
) -> dict[str, float]:
    """The accuracies of (hits, trained tokens) by sequence, and the shares of the sources."""
    hits_S, tokens_S = (np.concatenate(x).astype(np.float64) for x in zip(*per_batch, strict=True))
    name = "heldout_token_accuracy"
    found = {name: float(hits_S.sum() / tokens_S.sum())}
    if len(sources.names) < 2:
        return found
    of_sources = len(sources.source_S)  # what follows fills up the last batch
    for index, label in enumerate(sources.labels):
        is_here = sources.source_S == index
        num_tokens = tokens_S[:of_sources][is_here].sum()
        if num_tokens:
            found[f"{name}_{label}"] = float(hits_S[:of_sources][is_here].sum() / num_tokens)
        found[f"share_trained_{label}"] = float(shares[label])
    return found


@functools.lru_cache(maxsize=8)
def _compiled(cfg: StepConfig, mesh: jax.sharding.Mesh):
    count = functools.partial(_hits, cfg=cfg)
    return jax.jit(count, out_shardings=NamedSharding(mesh, P()))


def _hits(
    weights: model.Weights, batch: Batch, *, cfg: StepConfig
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """Counts the trained tokens of each sequence: those with the largest logit, and all of them."""
    hidden_BSD, _ = model.hidden_states(cfg.model, weights, batch.inputs, cfg.execution)
    is_hit_BS = head.hits(
        cfg.model,
        weights.params,
        hidden_BSD,
        batch.targets,
        chunk_tokens=choices.chunk_tokens(cfg.execution),
    )
    counted_BS = (batch.loss_mask > 0).astype(jnp.float32)
    return jnp.sum(is_hit_BS * counted_BS, axis=1), jnp.sum(counted_BS, axis=1)
