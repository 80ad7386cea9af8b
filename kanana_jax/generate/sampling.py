"""Choosing the next token: temperature, top-k, top-p and min-p, a seed for each request.

    p = softmax(logits / temperature), largest first
    keep rank < top_k;  then, renormalised, those before the sum reaches top_p;  and p >= min_p p_1
    logp = log(p_token / sum of the p that are kept)        of the distribution really drawn from

Ties with the last token kept are kept. The draw depends on the request's seed and the token's
place in the request, not on the rest of the batch.

Letters: B rows, N rows of logits, V vocabulary.
"""

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kanana_jax.config import ConfigError

NUM_SEEDS = 2**31


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How one request draws its tokens."""

    temperature: float = 1.0  # 0: always the most likely token
    top_k: int = 0  # 0 or -1: all
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0

    def __post_init__(self):
        for name, is_good, expected in (
            ("temperature", 0 <= self.temperature < math.inf, "finite and >= 0"),
            ("top_k", _is_whole(self.top_k) and self.top_k >= -1, "an integer >= -1"),
            ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
            ("min_p", 0 <= self.min_p <= 1, "in [0, 1]"),
            ("seed", _is_whole(self.seed) and 0 <= self.seed < NUM_SEEDS, "in [0, 2^31)"),
        ):
            if not is_good:
                raise ConfigError(f"{name} must be {expected}, got {getattr(self, name)}")

    def at_place(self, place: int) -> "Sampling":
        """The same with another seed, so that equal prompts at several places get other texts."""
        return dataclasses.replace(self, seed=(self.seed + place) % NUM_SEEDS)


def _is_whole(value: object) -> bool:
    return isinstance(value, numbers.Integral)


class Rows(NamedTuple):
    """The samplings of a batch, and how many tokens each row has drawn."""

    temperature_B: Float[Array | np.ndarray, "B"]
    top_k_B: Int[Array | np.ndarray, "B"]
    top_p_B: Float[Array | np.ndarray, "B"]
    min_p_B: Float[Array | np.ndarray, "B"]
    seed_B: Int[Array | np.ndarray, "B"]
    num_drawn_B: Int[Array | np.ndarray, "B"]


def rows(samplings: Sequence[Sampling], num_drawn: Sequence[int]) -> Rows:
    """Arrays on the host: a jitted function takes them to the device in one go."""
    # What 32 bits cannot hold becomes the nearest that they can; devices may read subnormals as 0.
    tiny, largest = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
    temperatures = [min(one.temperature, largest) for one in samplings]
    top_ks = [min(max(one.top_k, 0), np.iinfo(np.int32).max) for one in samplings]
    return Rows(
        temperature_B=np.array([x if x >= tiny else 0.0 for x in temperatures], np.float32),
        top_k_B=np.array(top_ks, np.int32),
        top_p_B=np.array([max(one.top_p, tiny) for one in samplings], np.float32),
        min_p_B=np.array([one.min_p for one in samplings], np.float32),
        seed_B=np.array([one.seed for one in samplings], np.int32),
        num_drawn_B=np.array(num_drawn, np.int32),
    )


def is_filtered(samplings: Sequence[Sampling]) -> bool:
    """Whether any of them ranks tokens; if so, `sample` has to know."""
    return any(one.top_k > 0 or one.top_p < 1 for one in samplings if one.temperature)


@functools.partial(jax.jit, static_argnames="is_filtered")
def sample(
    logits_NV: Float[Array, "N V"],
    how: Rows,
    row_B: Int[Array | np.ndarray, "B"] | None = None,
    *,
    is_filtered: bool,
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    """One token of each row of `how`, and its log-probability among those that are kept.

    The log-probability is 0 where the most likely token is taken. `row_B` says whose logits each
    one is drawn from; None: its own. Without `is_filtered` top_k and top_p of all rows are taken to
    be off; with it tokens are ranked if they are on in any row.
    """
    logits_BV = logits_NV if row_B is None else logits_NV[row_B]
    is_greedy_B = how.temperature_B == 0
    # Relative to the largest, which is 0: a small temperature makes the others -inf, none inf.
    below_BV = logits_BV - logits_BV.max(axis=-1, keepdims=True)
    scaled_BV = below_BV / jnp.where(is_greedy_B, 1.0, how.temperature_B)[:, None]
    is_kept_BV = scaled_BV >= jnp.log(how.min_p_B)[:, None]
    if is_filtered:
        ranks_B = ((how.top_k_B > 0) | (how.top_p_B < 1)) & ~is_greedy_B
        is_kept_BV &= jax.lax.cond(
            ranks_B.any(),
            _in_top_k_and_p,
            lambda x_BV, _: jnp.ones(x_BV.shape, bool),
            scaled_BV,
            how,
        )
    keys = jax.vmap(lambda seed, n: jax.random.fold_in(jax.random.key(seed), n))(
        how.seed_B, how.num_drawn_B
    )
    noise_BV = jax.vmap(lambda key: jax.random.gumbel(key, logits_BV.shape[1:]))(keys)
    drawn_BV = jnp.where(is_kept_BV, scaled_BV + noise_BV, -jnp.inf)
    # One argmax for both kinds of rows: one for each would be two passes over the logits.
    token_B = jnp.argmax(jnp.where(is_greedy_B[:, None], logits_BV, drawn_BV), axis=-1)
    # The largest is 0 and kept, so that no sum of exponentials is zero or infinite.
    total_B = jnp.where(is_kept_BV, jnp.exp(scaled_BV), 0.0).sum(axis=-1)
    picked_B = jnp.take_along_axis(scaled_BV, token_B[:, None], axis=-1)[:, 0]
    return token_B, jnp.where(is_greedy_B, 0.0, picked_B - jnp.log(total_B))


def _in_top_k_and_p(x_BV: Array, how: Rows) -> Array:
    """Finds the smallest kept value bit by bit: sorting a vocabulary takes far longer."""
    # As unsigned integers, floats keep their order if negative ones are flipped.
    bits_BV = jax.lax.bitcast_convert_type(x_BV, jnp.uint32)
    order_BV = jnp.where(bits_BV >> 31 == 1, ~bits_BV, bits_BV | jnp.uint32(1 << 31))

    top_k_B = jnp.where(how.top_k_B == 0, x_BV.shape[-1], how.top_k_B)
    is_kept_BV = order_BV >= _smallest(
        lambda t_B: (order_BV > t_B[:, None]).sum(axis=-1) < top_k_B, top_k_B.shape
    )
    p_BV = jax.nn.softmax(jnp.where(is_kept_BV, x_BV, -jnp.inf), axis=-1)
    is_in_top_p_BV = order_BV >= _smallest(
        lambda t_B: jnp.where(order_BV > t_B[:, None], p_BV, 0.0).sum(axis=-1) < how.top_p_B,
        top_k_B.shape,
    )
    # Rounded sums reach 1 before the last token; a row must not lose it because of other rows.
    return is_kept_BV & (is_in_top_p_BV | (how.top_p_B == 1)[:, None])


def _smallest(holds: Callable[[Array], Array], shape: tuple[int, ...]) -> Array:
    """The smallest uint32 t of each row at and above which `holds(t)` is true; (B, 1)."""

    def set_bit(i, largest_false_B):
        candidate_B = largest_false_B | (jnp.uint32(1 << 31) >> i.astype(jnp.uint32))
        return jnp.where(holds(candidate_B), largest_false_B, candidate_B)

    zero_B = jnp.zeros(shape, jnp.uint32)
    largest_false_B = jax.lax.fori_loop(0, 32, set_bit, zero_B)
    return jnp.where(holds(zero_B), zero_B, largest_false_B + 1)[:, None]
