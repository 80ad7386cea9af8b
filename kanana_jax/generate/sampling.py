"""Choosing the next token: temperature, top-k, top-p and min-p, a seed for each request.

    p = softmax(logits / temperature), largest first
    keep rank < top_k;  then, renormalised, those before the sum reaches top_p;  and p >= min_p p_1

The draw depends on the request's seed and the token's place in it, not on the batch around it.

Letters: B rows, V vocabulary.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How one request draws its tokens."""

    temperature: float = 1.0  # 0: always the most likely token
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0

    def __post_init__(self):
        if not (
            self.temperature >= 0
            and self.top_k >= 0
            and 0 < self.top_p <= 1
            and 0 <= self.min_p < 1
        ):
            raise ValueError(
                "sampling needs temperature >= 0, top_k >= 0, top_p in (0, 1] and min_p in [0, 1); "
                f"got {self}"
            )
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must lie in [0, 2^31), got {self.seed}")


class Rows(NamedTuple):
    """The samplings of a batch, and how many tokens each row has drawn."""

    temperature_B: Float[Array, "B"]
    top_k_B: Int[Array, "B"]
    top_p_B: Float[Array, "B"]
    min_p_B: Float[Array, "B"]
    seed_B: Int[Array, "B"]
    num_drawn_B: Int[Array, "B"]


def rows(samplings: list[Sampling], num_drawn: list[int]) -> Rows:
    return Rows(
        temperature_B=jnp.array([one.temperature for one in samplings], jnp.float32),
        top_k_B=jnp.array([one.top_k for one in samplings], jnp.int32),
        top_p_B=jnp.array([one.top_p for one in samplings], jnp.float32),
        min_p_B=jnp.array([one.min_p for one in samplings], jnp.float32),
        seed_B=jnp.array([one.seed for one in samplings], jnp.int32),
        num_drawn_B=jnp.array(num_drawn, jnp.int32),
    )


@jax.jit
def sample(logits_BV: Float[Array, "B V"], how: Rows) -> Int[Array, "B"]:
    """One token per row."""
    is_greedy_B = how.temperature_B == 0
    safe_B1 = jnp.where(is_greedy_B, 1.0, how.temperature_B)[:, None]
    sorted_BV, token_BV = jax.lax.top_k(logits_BV / safe_B1, logits_BV.shape[-1])
    kept_BV = jnp.where(_is_kept(sorted_BV, how), sorted_BV, -jnp.inf)
    keys = jax.vmap(lambda seed, n: jax.random.fold_in(jax.random.key(seed), n))(
        how.seed_B, how.num_drawn_B
    )
    rank_B = jnp.where(is_greedy_B, 0, jax.vmap(jax.random.categorical)(keys, kept_BV))
    return jnp.take_along_axis(token_BV, rank_B[:, None], axis=-1)[:, 0]


def _is_kept(sorted_BV: Array, how: Rows) -> Array:
    rank_V = jnp.arange(sorted_BV.shape[-1])
    top_k_B1 = how.top_k_B[:, None]
    in_top_k_BV = (top_k_B1 == 0) | (rank_V < top_k_B1)
    p_BV = jax.nn.softmax(jnp.where(in_top_k_BV, sorted_BV, -jnp.inf), axis=-1)
    before_BV = jnp.cumsum(p_BV, axis=-1) - p_BV
    # The most likely token always stays, whatever rounding says.
    in_top_p_BV = (before_BV < how.top_p_B[:, None]) | (rank_V == 0)
    return in_top_k_BV & in_top_p_BV & (p_BV >= how.min_p_B[:, None] * p_BV[:, :1])
