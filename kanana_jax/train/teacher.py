"""A student's loss against a teacher, in the pass of the head that takes its cross-entropy.

The logits of both are formed for a slice of the sequence at a time; of the teacher's,
only the few numbers that a divergence reads are kept, or nothing.

Letters: B sequences, S positions, D hidden, V vocabulary, K draws, N numbers of a position.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kanana_jax import config, model
from kanana_jax.batch import Batch
from kanana_jax.objectives.objective import Teaching
from kanana_jax.objectives.soft_targets import Divergence
from kanana_jax.train import head

NAME = "teacher"  # of its weights among the frozen ones


class Teacher(NamedTuple):
    """What a student is compared with in one micro-batch."""

    teaching: Teaching
    live: head.Other | None  # None: the batch has what is read of it
    totals: Any  # the objective's


def of_batch(
    teaching: Teaching,
    cfg: config.ModelConfig | None,
    weights: model.Weights | None,
    batch: Batch,
    totals: Any,
    execution: config.ExecutionConfig,
) -> Teacher:
    """Runs a live teacher, `cfg` and `weights`, up to its hidden states."""
    if not teaching.is_live:
        return Teacher(teaching, None, totals)
    assert cfg is not None and weights is not None
    inputs = batch.inputs._replace(routes=None)
    hidden_BSD, _ = model.hidden_states(cfg, weights, inputs, execution)
    other = head.Other(cfg, weights.params, jax.lax.stop_gradient(hidden_BSD))
    return Teacher(teaching, other, totals)


def losses(
    cfg: config.ModelConfig,
    params: Any,
    hidden_BSD: Float[Array, "B S D"],
    batch: Batch,
    weights_BS: Float[Array, "B S"],
    teacher: Teacher,
    *,
    z_weight: float,
    chunk_tokens: int,
) -> tuple[Float[Array, ""], Float[Array, "B S"], Float[Array, "B S"], dict[str, Array]]:
    """What `head.losses` gives, with the teacher's term in the loss, and what that term reports."""
    teaching, live, totals = teacher
    of_divergence_BS = teaching.coefficients(batch, totals)
    columns = () if live else tuple(batch.extra[name] for name in teaching.divergence.columns)
    loss, (nll_BS, logz_BS, value_BS) = head.over_chunks(
        functools.partial(_of_chunk, divergence=teaching.divergence, z_weight=z_weight),
        (cfg, params, hidden_BSD),
        (batch.targets, weights_BS, of_divergence_BS, *columns),
        num_each=3,
        chunk_tokens=chunk_tokens,
        other=live,
    )
    return loss, nll_BS, logz_BS, teaching.sums(value_BS, batch, totals)


def _of_chunk(logits_BSV, other_BSV, parts, with_grads, *, divergence, z_weight):
    targets_BS, weights_BS, of_divergence_BS, *columns = parts
    loss, each, grad_BSV = head.cross_entropy(
        logits_BSV, None, (targets_BS, weights_BS), with_grads, z_weight=z_weight
    )
    if other_BSV is not None:
        no_draws_BSK = jnp.zeros((*targets_BS.shape, 0))
        columns = divergence.read(other_BSV, no_draws_BSK)

    def term(logits_BSV):
        value_BS = divergence.values(logits_BSV, tuple(columns))
        return jnp.sum(of_divergence_BS * value_BS), value_BS

    if not with_grads:
        of_teacher, value_BS = term(logits_BSV)
        return loss + of_teacher, (*each, value_BS), None
    (of_teacher, value_BS), more_BSV = jax.value_and_grad(term, has_aux=True)(logits_BSV)
    return loss + of_teacher, (*each, value_BS), grad_BSV + more_BSV


def read(
    weights: model.Weights,
    batch: Batch,
    uniform_BSK: Float[Array, "B S K"],
    *,
    divergence: Divergence,
    cfg: config.ModelConfig,
    execution: config.ExecutionConfig,
    chunk_tokens: int,
) -> dict[str, Float[Array, "B S N"] | Int[Array, "B S N"]]:
    """The columns that a batch needs in the place of this teacher, by name."""
    inputs = batch.inputs._replace(routes=None)
    hidden_BSD, _ = model.hidden_states(cfg, weights, inputs, execution)
    found = head.of_tokens(
        divergence.read,
        (cfg, weights.params, hidden_BSD),
        (uniform_BSK,),
        num_dims=(3,) * len(divergence.columns),
        chunk_tokens=chunk_tokens,
    )
    return dict(zip(divergence.columns, found, strict=True))
