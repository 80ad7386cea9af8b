"""The clipped value loss (arXiv:1707.06347; its code has the clip), a mean over drawn tokens.

    l_t = 1/2 max((v - R)^2, (v_c - R)^2)          v_c = min(max(v, v_old - clip), v_old + clip)
    -d l_t / d v = R - v, or 0 where the second square is the larger one

v is the scalar head's output at the position that predicts the token, R the column "returns" and
v_old the column "old_values", the head's output when advantages were formed.
Letters: B sequences, S positions.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kanana_jax.batch import Batch
from kanana_jax.objectives.rollouts import Totals, is_drawn


@dataclass(frozen=True)
class ValueLoss:
    """`weight` is relative to the policy's loss, as both move the same layers.

    ValueError where out of range.
    """

    weight: float = 0.1
    clip: float = 0.2

    columns = ("returns", "old_values")

    def __post_init__(self):
        if not (0.0 < self.weight < float("inf") and 0.0 < self.clip < float("inf")):
            raise ValueError(
                f"weight and clip must be positive numbers, got {self.weight} and {self.clip}; "
                "0.1 and 0.2 are usual"
            )

    def coefficients(
        self, value_BS: Float[Array, "B S"], batch: Batch, totals: Totals
    ) -> Float[Array, "B S"]:
        """-d loss / d v of every position."""
        error_BS = jnp.asarray(batch.extra["returns"]) - value_BS
        counts_BS = is_drawn(batch) & ~self._is_clipped(value_BS, batch)
        return jnp.where(counts_BS, self.weight / totals.tokens * error_BS, 0.0)

    def sums(
        self, value_BS: Float[Array, "B S"], batch: Batch, totals: Totals
    ) -> dict[str, Float[Array, ""]]:
        """ "loss" is weighted, "value_loss" is not; `explained_variance` reads the others."""
        return_BS = jnp.asarray(batch.extra["returns"])
        error_BS = return_BS - value_BS
        squared_BS = jnp.maximum(error_BS**2, (return_BS - self._bounded(value_BS, batch)) ** 2)
        of_tokens = {
            "value_loss": 0.5 * squared_BS,
            "value_clipped": self._is_clipped(value_BS, batch),
            "return": return_BS,
            "return_squared": return_BS**2,
            "value_error": error_BS,
            "value_error_squared": error_BS**2,
        }
        sums = totals.means(of_tokens, is_drawn(batch))
        return {"loss": self.weight * sums["value_loss"]} | sums

    def _bounded(self, value_BS: Float[Array, "B S"], batch: Batch) -> Float[Array, "B S"]:
        old_BS = jnp.asarray(batch.extra["old_values"])
        return jnp.clip(value_BS, old_BS - self.clip, old_BS + self.clip)

    def _is_clipped(self, value_BS: Float[Array, "B S"], batch: Batch) -> Bool[Array, "B S"]:
        return_BS = jnp.asarray(batch.extra["returns"])
        bounded_BS = self._bounded(value_BS, batch)
        return (return_BS - bounded_BS) ** 2 > (return_BS - value_BS) ** 2


def explained_variance(figures: Mapping[str, Any]) -> float:
    """1 - Var(R - v) / Var(R) of a step's figures: 1 for a perfect critic, 0 for a constant one.

    NaN where returns do not vary.
    """
    of_error, of_return = (
        float(figures[f"{name}_squared"]) - float(figures[name]) ** 2
        for name in ("value_error", "return")
    )
    return 1.0 - of_error / of_return if of_return > 0.0 else math.nan
