"""Surrogates of the expected advantage, token by token, with ratios that are clipped.

    r_t = pi / pi_b         s = exp(mean_t log r_t)         clip(x) = min(max(x, 1 - low), 1 + high)

    Reinforce        l_t = -A_t log pi                                    g_t = A_t
    Clipped          l_t = -min(r_t A_t, clip(r_t) A_t)                   g_t = r_t A_t, or 0
    SequenceClipped  l_t = -min(s A_t, clip(s) A_t)                       g_t = s A_t, or 0
    Cispo            l_t = -[min(max(r_t, low), high)] A_t log pi         g_t = [..] A_t

pi is the policy that is trained, pi_b the one that it is compared with, A the advantage, [x] an x
without gradient, and g_t = -d loss / d log pi_t. g_t is 0 where the clipped term is the smaller.
`squared` has more. Letters: B sequences, S positions.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kanana_jax.batch import Batch
from kanana_jax.objectives import segments

# Beyond it a ratio is constant: float32 holds exp(88), and an advantage multiplies it.
MAX_LOG_RATIO = 20.0


class Drawn(NamedTuple):
    """What the policy drew. A rollout is a segment, with all its drawn tokens."""

    is_drawn_BS: Bool[Array, "B S"]
    logp_BS: Float[Array, "B S"]
    log_ratio_BS: Float[Array, "B S"]  # log pi - log pi_b, 0 where nothing was drawn
    advantage_BS: Float[Array, "B S"]
    sampler_BS: Float[Array, "B S"]  # log-probabilities as the tokens were drawn
    batch: Batch

    def lengths(self) -> Float[Array, "B S"]:
        """At every position, the number of drawn tokens of its own rollout, at least 1."""
        one_BS = self.is_drawn_BS.astype(jnp.float32)
        return jnp.maximum(segments.sums(one_BS, self.batch), 1.0)


class Terms(NamedTuple):
    """Values for every token; those where nothing was drawn do not count."""

    loss_BS: Float[Array, "B S"]
    pull_BS: Float[Array, "B S"]  # g
    is_clipped_BS: Bool[Array, "B S"]  # whether the clip changed its term


class Surrogate(Protocol):
    """Hashable. `needs_values`: whether g depends on log pi."""

    @property
    def needs_values(self) -> bool: ...
    def __call__(self, drawn: Drawn, /) -> Terms: ...


@dataclass(frozen=True)
class Reinforce:
    """The score function (Williams 1992); no ratio, so for the first update of a round."""

    needs_values = False

    def __call__(self, drawn: Drawn) -> Terms:
        loss_BS = -drawn.advantage_BS * drawn.logp_BS
        return Terms(loss_BS, drawn.advantage_BS, jnp.zeros_like(drawn.is_drawn_BS))


@dataclass(frozen=True)
class Clipped:
    """PPO (arXiv:1707.06347, eq. 7), with two widths as in DAPO (arXiv:2503.14476, eq. 8).

    `dual` bounds r where the advantage is below 0 (arXiv:1912.09729; 3 is usual): l_t is then at
    most -dual A_t. ValueError where out of range.
    """

    low: float = 0.2
    high: float = 0.2
    dual: float | None = None

    needs_values = True

    def __post_init__(self):
        _check_widths(self.low, self.high)
        if self.dual is not None and not self.dual > 1.0 + self.high:
            raise ValueError(
                f"dual must be larger than 1 + high = {1.0 + self.high}, got {self.dual}; "
                "3 is usual, None leaves it out"
            )

    def __call__(self, drawn: Drawn) -> Terms:
        terms = _clipped(drawn, drawn.log_ratio_BS, MAX_LOG_RATIO, self.low, self.high)
        if self.dual is None:
            return terms
        most_BS = -self.dual * drawn.advantage_BS
        is_cut_BS = (drawn.advantage_BS < 0) & (terms.loss_BS > most_BS)
        return Terms(
            jnp.where(is_cut_BS, most_BS, terms.loss_BS),
            jnp.where(is_cut_BS, 0.0, terms.pull_BS),
            terms.is_clipped_BS | is_cut_BS,
        )


@dataclass(frozen=True)
class SequenceClipped:
    """GSPO (arXiv:2507.18071, sec. 4). ValueError where out of range.

    s is the geometric mean of a rollout's ratios, so its widths are a thousandth of a token's.
    Every token pulls on its own log-probability, with the ratio s.
    """

    low: float = 3e-4
    high: float = 4e-4

    needs_values = True

    def __post_init__(self):
        _check_widths(self.low, self.high)

    def __call__(self, drawn: Drawn) -> Terms:
        mean_BS = segments.sums(drawn.log_ratio_BS, drawn.batch) / drawn.lengths()
        # A mean over tokens does not come near 10, unless the two policies are unrelated.
        return _clipped(drawn, mean_BS, 10.0, self.low, self.high)


@dataclass(frozen=True)
class Cispo:
    """The ratio is a bounded weight, and every token keeps a gradient (arXiv:2506.13585, sec. 3.1).

    `low` and `high` are ratios, not distances from 1. ValueError where out of range.
    """

    low: float = 0.0
    high: float = 5.0

    needs_values = True

    def __post_init__(self):
        if not 0.0 <= self.low < 1.0 < self.high < float("inf"):
            raise ValueError(
                f"low and high must be ratios with 0 <= low < 1 < high, got {self.low} and "
                f"{self.high}; 0 and 5 are usual"
            )

    def __call__(self, drawn: Drawn) -> Terms:
        ratio_BS = jnp.exp(jnp.minimum(drawn.log_ratio_BS, MAX_LOG_RATIO))
        bounded_BS = jnp.clip(ratio_BS, self.low, self.high)
        pull_BS = bounded_BS * drawn.advantage_BS
        return Terms(-pull_BS * drawn.logp_BS, pull_BS, bounded_BS != ratio_BS)


def _clipped(
    drawn: Drawn, log_ratio_BS: Float[Array, "B S"], largest: float, low: float, high: float
) -> Terms:
    ratio_BS = jnp.exp(jnp.minimum(log_ratio_BS, largest))
    plain_BS = ratio_BS * drawn.advantage_BS
    clipped_BS = jnp.clip(ratio_BS, 1.0 - low, 1.0 + high) * drawn.advantage_BS
    is_clipped_BS = clipped_BS < plain_BS
    is_still_BS = is_clipped_BS | (log_ratio_BS > largest)
    pull_BS = jnp.where(is_still_BS, 0.0, plain_BS)
    return Terms(-jnp.minimum(plain_BS, clipped_BS), pull_BS, is_clipped_BS)


def _check_widths(low: float, high: float) -> None:
    if not (0.0 < low <= 1.0 and 0.0 < high < float("inf")):
        raise ValueError(
            f"low must lie in (0, 1] and high must be a number over 0, got {low} and {high}; "
            "they are distances of the ratio from 1"
        )
