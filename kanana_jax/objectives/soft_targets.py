"""Divergences of a student's next-token distribution q from a teacher's p, position by position.

    ForwardKL   sum_v p_v (log p_v - log q_v)
    ReverseKL   sum_v q_v (log q_v - log p_v)
    TopK        ForwardKL over the teacher's k likeliest tokens and one bucket of all others
    Sampled     1/n sum_i p_i / r_i (log p_i - log q_i)     i drawn from r_v ~ p_v^(1 / temperature)

The first two read all of p. The others read a few numbers of it, which can be kept: `read` takes
them from the teacher's logits. Without the bucket of all others, q could put any mass on them; over
the likeliest tokens alone, made to add up to 1, it does. Draws have the mean of ForwardKL, in
values and gradients (arXiv:2503.16870); the likeliest tokens do not.

Letters: B sequences, S positions, V vocabulary, K tokens of the teacher that are read.
"""

import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Logits = Float[Array, "B S V"]


class Column(NamedTuple):
    """A column of a batch: numbers per position that are read from the teacher."""

    dtype: Any
    size: int


_NONE: Mapping[str, Column] = types.MappingProxyType({})


class Divergence(Protocol):
    """A divergence that is differentiable in the student's logits. Hashable."""

    @property
    def columns(self) -> Mapping[str, Column]:
        """What `read` gives, by name; none for a divergence that reads all of p."""
        ...

    @property
    def num_draws(self) -> int:
        """How many numbers in [0, 1) per position `read` draws tokens with."""
        ...

    def read(self, teacher_BSV: Logits, uniform_BSK: Float[Array, "B S K"], /) -> tuple[Array, ...]:
        """What `values` reads from the teacher, in the order of `columns`."""
        ...

    def values(self, student_BSV: Logits, read: tuple[Array, ...], /) -> Float[Array, "B S"]: ...


class _OfAll:
    """Reads all of p."""

    columns = _NONE
    num_draws = 0

    def read(self, teacher_BSV, uniform_BSK):
        return (teacher_BSV,)


@dataclass(frozen=True)
class ForwardKL(_OfAll):
    """The student covers what the teacher says: the mean of cross-entropies to its draws."""

    def values(self, student_BSV, read):
        (teacher_BSV,) = read
        return _kl(jax.nn.log_softmax(teacher_BSV), jax.nn.log_softmax(student_BSV))


@dataclass(frozen=True)
class ReverseKL(_OfAll):
    """The student says only what the teacher says too; it may leave some of it out."""

    def values(self, student_BSV, read):
        (teacher_BSV,) = read
        return _kl(jax.nn.log_softmax(student_BSV), jax.nn.log_softmax(teacher_BSV))


@dataclass(frozen=True)
class TopK:
    """A lower bound of ForwardKL. `num_tokens` must be less than the vocabulary."""

    num_tokens: int

    num_draws = 0

    @property
    def columns(self):
        return {
            "teacher_ids": Column(jnp.int32, self.num_tokens),
            "teacher_logp": Column(jnp.float32, self.num_tokens + 1),  # the last: all others
        }

    def read(self, teacher_BSV, uniform_BSK):
        _expect_fewer(self.num_tokens, teacher_BSV)
        _, ids_BSK = jax.lax.top_k(teacher_BSV, self.num_tokens)
        return ids_BSK, _buckets(teacher_BSV, ids_BSK)

    def values(self, student_BSV, read):
        ids_BSK, logp_BSN = read
        _expect_fewer(self.num_tokens, student_BSV)
        return _kl(logp_BSN, _buckets(student_BSV, ids_BSK))


@dataclass(frozen=True)
class Sampled:
    """ForwardKL in the mean over draws; with few draws a value may be less than 0.

    A `temperature` over 1 draws rare tokens more often, and weighs them less. Draw i comes
    from the i-th of n equal parts of r's probability, which keeps the mean and varies less.
    """

    num_tokens: int
    temperature: float = 1.0

    @property
    def num_draws(self):
        return self.num_tokens

    @property
    def columns(self):
        return {
            "teacher_ids": Column(jnp.int32, self.num_tokens),
            "teacher_logp": Column(jnp.float32, self.num_tokens),
            "teacher_weights": Column(jnp.float32, self.num_tokens),
        }

    def read(self, teacher_BSV, uniform_BSK):
        logp_BSV = jax.nn.log_softmax(teacher_BSV)
        logr_BSV = jax.nn.log_softmax(teacher_BSV / self.temperature)
        ids_BSK = _drawn(jnp.exp(logr_BSV), uniform_BSK)
        logp_BSK, logr_BSK = _at(logp_BSV, ids_BSK), _at(logr_BSV, ids_BSK)
        return ids_BSK, logp_BSK, jnp.exp(logp_BSK - logr_BSK) / self.num_tokens

    def values(self, student_BSV, read):
        ids_BSK, logp_BSK, weights_BSK = read
        logq_BSK = _at(jax.nn.log_softmax(student_BSV), ids_BSK)
        return jnp.sum(weights_BSK * (logp_BSK - logq_BSK), axis=-1)


def _kl(logp: Float[Array, "B S N"], logq: Float[Array, "B S N"]) -> Float[Array, "B S"]:
    return jnp.sum(jnp.exp(logp) * (logp - logq), axis=-1)


def _at(x_BSV: Logits, ids_BSK: Int[Array, "B S K"]) -> Float[Array, "B S K"]:
    return jnp.take_along_axis(x_BSV, ids_BSK, axis=-1)


def _buckets(logits_BSV: Logits, ids_BSK: Int[Array, "B S K"]) -> Float[Array, "B S K+1"]:
    """Log-probabilities of the tokens `ids_BSK` and, last, of all others together."""
    others_BSV = jnp.put_along_axis(logits_BSV, ids_BSK, -jnp.inf, axis=-1, inplace=False)
    # From the others' own logits: 1 minus the sum of the likeliest would lose its digits.
    others_BS1 = jax.nn.logsumexp(others_BSV, axis=-1, keepdims=True)
    return jax.nn.log_softmax(jnp.concatenate([_at(logits_BSV, ids_BSK), others_BS1], axis=-1))


def _drawn(r_BSV: Logits, uniform_BSK: Float[Array, "B S K"]) -> Int[Array, "B S K"]:
    """Token i where the cumulative sum of r passes (i + uniform) / K of its end."""
    sums_BSV = jnp.cumsum(r_BSV, axis=-1)
    count = uniform_BSK.shape[-1]
    at_BSK = (jnp.arange(count) + uniform_BSK) / count * sums_BSV[..., -1:]
    search = jax.vmap(jax.vmap(lambda sums, at: jnp.searchsorted(sums, at, side="right")))
    return jnp.minimum(search(sums_BSV, at_BSK), r_BSV.shape[-1] - 1).astype(jnp.int32)


def _expect_fewer(num_tokens: int, logits_BSV: Logits) -> None:
    if num_tokens >= logits_BSV.shape[-1]:
        raise ValueError(
            f"the teacher's likeliest tokens must be fewer than the {logits_BSV.shape[-1]} of the "
            f"vocabulary, got {num_tokens}; take forward_kl, which reads all"
        )
