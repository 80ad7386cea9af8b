"""Lower ranks of the latents of multi-head latent attention, by a rotation.

    u = norm(c) without gamma      E[u u^T] = V diag(e) V^T, e falling
    W_a <- W_a V_r                 the first r columns of V
    W_b <- V_r^T diag(gamma) W_b   gamma is folded in: it does not commute with V
    gamma <- sqrt(s C / r)         s = (e_1 + .. + e_r) / (e_1 + .. + e_C)

RMSNorm commutes with rotations, so that at full rank nothing changes. With fewer entries it divides
by the energy that they have, which the new gamma corrects on average. The rotary columns of W_a
are a key that all heads share, and stay. Both norms may be cut, each by its second moments.

Letters: L layers, D hidden, C rank, r new rank.
"""

import dataclasses

import numpy as np

from kanana_jax.config import ModelConfig
from kanana_jax.model.surgery import resizing
from kanana_jax.model.surgery.activations import Activations
from kanana_jax.model.surgery.hidden import scaled_gamma
from kanana_jax.model.transformer import Weights

# W_a, norm and W_b by the field of their rank.
_LEAVES = {"kv_lora_rank": ("wkv_a", "kv_norm", "wkv_b"), "q_lora_rank": ("wq_a", "q_norm", "wq_b")}


def cut_kv_rank(cfg: ModelConfig, weights: Weights, seen: Activations, size: int) -> resizing.Cut:
    """Cuts the latent of keys and values, which is what decoding remembers of a token."""
    return _cut(cfg, weights, seen, size, "kv_lora_rank")


def cut_q_rank(cfg: ModelConfig, weights: Weights, seen: Activations, size: int) -> resizing.Cut:
    return _cut(cfg, weights, seen, size, "q_lora_rank")


def _cut(
    cfg: ModelConfig, weights: Weights, seen: Activations, size: int, field: str
) -> resizing.Cut:
    resizing.expect_size(cfg, field, size)
    resizing.expect_vector_gains(cfg, field)
    params, shares = dict(weights.params), []
    for stack, found in seen.stacks.items():
        attention, share_L = _rotated(
            cfg, params[stack]["attention"], _LEAVES[field], found[_LEAVES[field][1]], size
        )
        params[stack] = params[stack] | {"attention": attention}
        shares.append(share_L)
    new = dataclasses.replace(cfg, **{field: size})
    return resizing.Cut(new, Weights(params, weights.buffers), float(np.concatenate(shares).mean()))


def _rotated(
    cfg: ModelConfig, attention: dict, leaves: tuple[str, str, str], moment_LCC, size: int
) -> tuple[dict, np.ndarray]:
    """Attention's parameters with a latent of `size`, and the share of energy kept, by layer."""
    w_a, gamma, w_b = (np.asarray(attention[name]) for name in leaves)
    energy_LC, v_LCC = np.linalg.eigh(np.asarray(moment_LCC, np.float64))
    energy_LC, v_LCC = np.maximum(energy_LC[:, ::-1], 0.0), v_LCC[:, :, ::-1]
    share_L = energy_LC[:, :size].sum(axis=1) / energy_LC.sum(axis=1)
    rank, v_LCr = gamma.shape[1], v_LCC[:, :, :size]
    gain_LC = np.asarray(gamma, np.float64) + (1.0 if cfg.zero_centered_gamma else 0.0)
    turned_a = w_a[..., :rank].astype(np.float32) @ v_LCr
    new_a = np.concatenate([turned_a.astype(w_a.dtype), w_a[..., rank:]], axis=-1)
    wide_b = w_b.astype(np.float32)
    new_b = np.einsum("LCr,LC,LCHK->LrHK", v_LCr, gain_LC, wide_b, optimize=True)
    unit = np.full((len(gamma), size), 0.0 if cfg.zero_centered_gamma else 1.0, gamma.dtype)
    new_gamma = scaled_gamma(cfg, unit, np.sqrt(share_L * rank / size)[:, None])
    made = (new_a, new_gamma, new_b.astype(w_b.dtype))
    return attention | dict(zip(leaves, made, strict=True)), share_L
