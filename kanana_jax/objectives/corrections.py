"""Weights of tokens for the gap between the policy that drew them and the trainer's.

    rho_t = pi_o / mu

    Truncated     c_t = min(rho_t, cap)
    Masked        c_t = rho_t where low <= rho_t <= high, else 0
    SequenceMask  c_t = 1 where low <= m <= high, else 0; m = mean_t rho_t or exp(mean_t log rho_t)

mu is the engine's policy as the tokens were drawn, pi_o the trainer's before the first update of
the round. Their weights are the same; kernels, rounding and experts differ. c has no gradient and
multiplies the surrogate, not the divergence from a reference.
Letters: B sequences, S positions.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float

from kanana_jax.objectives import segments
from kanana_jax.objectives.surrogates import MAX_LOG_RATIO, Drawn


class Correction(Protocol):
    """Hashable. c of every token, from log rho, which is 0 where nothing was drawn."""

    def __call__(self, log_rho_BS: Float[Array, "B S"], drawn: Drawn, /) -> Float[Array, "B S"]: ...


@dataclass(frozen=True)
class Truncated:
    """Truncated importance sampling (TIS; Yao et al. 2025). ValueError where out of range."""

    cap: float = 2.0

    def __post_init__(self):
        if not 1.0 <= self.cap < float("inf"):
            raise ValueError(f"cap must be a ratio from 1, got {self.cap}; 2 is usual")

    def __call__(self, log_rho_BS: Float[Array, "B S"], drawn: Drawn) -> Float[Array, "B S"]:
        return jnp.minimum(_ratio(log_rho_BS), self.cap)


@dataclass(frozen=True)
class Masked:
    """IcePop (arXiv:2510.18855): tokens far off do not count. ValueError where out of range."""

    low: float = 0.5
    high: float = 5.0

    def __post_init__(self):
        _check_bounds(self.low, self.high)

    def __call__(self, log_rho_BS: Float[Array, "B S"], drawn: Drawn) -> Float[Array, "B S"]:
        rho_BS = _ratio(log_rho_BS)
        return jnp.where((rho_BS >= self.low) & (rho_BS <= self.high), rho_BS, 0.0)


@dataclass(frozen=True)
class SequenceMask:
    """Rollouts that are far off as a whole do not count. ValueError where out of range.

    The geometric mean contains the sum of the log-ratios but does not grow with the length.
    """

    low: float = 0.5
    high: float = 2.0
    mean: Literal["geometric", "arithmetic"] = "geometric"

    def __post_init__(self):
        _check_bounds(self.low, self.high)
        if self.mean not in ("geometric", "arithmetic"):
            raise ValueError(f"mean must be geometric or arithmetic, got {self.mean!r}")

    def __call__(self, log_rho_BS: Float[Array, "B S"], drawn: Drawn) -> Float[Array, "B S"]:
        is_geometric = self.mean == "geometric"
        of_tokens_BS = log_rho_BS if is_geometric else _ratio(log_rho_BS)
        of_tokens_BS = jnp.where(drawn.is_drawn_BS, of_tokens_BS, 0.0)
        mean_BS = segments.sums(of_tokens_BS, drawn.batch) / drawn.lengths()
        mean_BS = _ratio(mean_BS) if is_geometric else mean_BS
        return jnp.where((mean_BS >= self.low) & (mean_BS <= self.high), 1.0, 0.0)


def _ratio(log_rho_BS: Float[Array, "B S"]) -> Float[Array, "B S"]:
    return jnp.exp(jnp.minimum(log_rho_BS, MAX_LOG_RATIO))


def _check_bounds(low: float, high: float) -> None:
    if not 0.0 <= low <= 1.0 <= high < float("inf"):
        raise ValueError(
            f"low and high must be ratios with 0 <= low <= 1 <= high, got {low} and {high}; "
            "1 means that both policies agree"
        )
