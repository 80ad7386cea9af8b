"""Even loads of experts: how uneven they are, and the router bias that the next step routes with.

    sign       b_e <- b_e + rate (sign(d_e) - mean sign(d)),   d = mean load - load

    quantile   a_t  = the (K+1)-th largest of s_t + b          what token t's next expert must pass
               r_te = a_t - s_te                               the bias with which e would just pass
               b_e <- the K/E-quantile of r_.e over all tokens of the step, less its mean over e

The sign rule is Moonlight's zero-mean form of arXiv:2412.19437, sec. 2.1.2. Quantile balancing is
Kimi K3's (arXiv:2607.24653, sec. 2.3.3 and App. D). It has no rate: b_e > r_te holds for exactly
the tokens that chose e, so a bias at the K/E-quantile of r_.e would have sent K/E of the tokens to
e, had the thresholds a_t stayed where they were.

The quantile is read off a histogram, which adds up over micro-batches and devices. Scores lie in
[0, 1], so every r lies in [min b - 1, max b + 1]. After an update the biases of a layer differ by
at most 1, as r_te and r_tf do at every token, so a bin is at most 0.003 wide.

Letters: B batch, S sequence, T tokens, L layers, E experts, K experts per token, N bins, X parts of
the batch that have a histogram of their own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kanana_jax.config import ModelConfig

NUM_BINS = 1000  # App. D


class Routing(NamedTuple):
    """What a step's tokens chose, from which the next router bias follows."""

    load_LE: Float[Array, "L E"]  # tokens sent to each expert, padding left out
    # Tokens by the bias r with which they would just have chosen an expert; None: not asked for.
    needed_LXEN: Int[Array, "L X E N"] | None = None


def max_vio(load_LE: Float[Array, "L E"]) -> Float[Array, "L"]:
    """MaxVio: how far the busiest expert lies above the mean load, as a share of the mean."""
    if 0 in load_LE.shape:
        return jnp.zeros(load_LE.shape[:1])
    mean_L = load_LE.mean(axis=-1)
    return (load_LE.max(axis=-1) - mean_L) / jnp.maximum(mean_L, 1e-20)


def init_router_bias(cfg: ModelConfig) -> Float[Array, "L E"]:
    """The balancing bias of every MoE layer, zero: train state, not a parameter."""
    return jnp.zeros((cfg.num_moe_layers, cfg.num_experts), jnp.float32)


def update_router_bias(
    bias_LE: Float[Array, "L E"], load_LE: Float[Array, "L E"], rate: float | Float[Array, ""]
) -> Float[Array, "L E"]:
    """The sign rule: the mean of b never moves."""
    if 0 in bias_LE.shape:
        return bias_LE
    sign_LE = jnp.sign(load_LE.mean(axis=-1, keepdims=True) - load_LE)
    return bias_LE + rate * (sign_LE - sign_LE.mean(axis=-1, keepdims=True))


def count_needed(
    score_BSE: Float[Array, "B S E"],
    bias_E: Float[Array, "E"],
    is_token_BS: Bool[Array, "B S"],
    top_k: int,
) -> Int[Array, "X E N"]:
    """The histogram of r of every expert over these tokens, padding left out; X is 1.

    It takes a second, wider top-k, and one addition for each token and expert at a place that
    depends on the data: nothing larger than the scores and the histogram is ever formed.
    """
    score_BSE, bias_E = jax.lax.stop_gradient((score_BSE, bias_E))
    num_experts = score_BSE.shape[-1]
    largest_BSk, _ = jax.lax.top_k(score_BSE + bias_E, top_k + 1)
    needed_BSE = largest_BSk[..., -1:] - score_BSE
    low, width = _bins(bias_E)
    bin_BSE = jnp.clip(((needed_BSE - low) / width).astype(jnp.int32), 0, NUM_BINS - 1)
    place_BSE = bin_BSE + NUM_BINS * jnp.arange(num_experts, dtype=jnp.int32)
    # int32 adds up exactly in every order; float32 stops counting at 2^24.
    one_BSE = jnp.broadcast_to(is_token_BS[..., None], place_BSE.shape).astype(jnp.int32)
    added = jax.ops.segment_sum(one_BSE.ravel(), place_BSE.ravel(), num_experts * NUM_BINS)
    return added.reshape(1, num_experts, NUM_BINS)


def quantile_router_bias(
    bias_LE: Float[Array, "L E"], needed_LXEN: Int[Array, "L X E N"] | None, top_k: int
) -> Float[Array, "L E"]:
    """Quantile balancing, from the histograms that were counted with `bias_LE`.

    The result lies in the quantile's bin, at most the bin's width from the quantile. A layer that
    saw no token keeps its bias.
    """
    if needed_LXEN is None:  # no layer has experts
        return bias_LE
    below_LEN = jnp.cumsum(needed_LXEN.sum(axis=1), axis=-1).astype(jnp.float32)
    total_LE = below_LEN[..., -1]
    wanted_LE1 = (total_LE * top_k / bias_LE.shape[-1])[..., None]
    bin_LE1 = jnp.argmax(below_LEN >= wanted_LE1, axis=-1, keepdims=True)  # the first such bin
    above_LE1 = jnp.take_along_axis(below_LEN, bin_LE1, axis=-1)
    before_LE1 = jnp.take_along_axis(below_LEN, jnp.maximum(bin_LE1 - 1, 0), axis=-1)
    before_LE1 = jnp.where(bin_LE1 == 0, 0.0, before_LE1)
    share_LE1 = (wanted_LE1 - before_LE1) / jnp.maximum(above_LE1 - before_LE1, 1.0)
    low_L1, width_L1 = _bins(bias_LE)
    moved_LE = low_L1 + width_L1 * (bin_LE1 + share_LE1)[..., 0]
    moved_LE -= moved_LE.mean(axis=-1, keepdims=True)
    return jnp.where(total_LE > 0, moved_LE, bias_LE)


def _bins(bias_E: Array) -> tuple[Array, Array]:
    """Where the bins of a layer begin, and their width."""
    low, high = (fn(bias_E, axis=-1, keepdims=True) for fn in (jnp.min, jnp.max))
    return low - 1.0, (high - low + 2.0) / NUM_BINS
