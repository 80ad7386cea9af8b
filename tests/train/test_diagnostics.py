"""Slow measurements against numpy's decomposition of the whole matrices."""

import dataclasses

import jax
import numpy as np
import pytest

from kanana_jax import model
from kanana_jax.model import presets
from kanana_jax.train import diagnostics

LATENT = dataclasses.replace(presets.tiny(8), num_layers=2, num_dense_layers=2, hidden_size=24)
GROUPED = dataclasses.replace(
    LATENT,
    num_kv_heads=2,
    kv_lora_rank=None,
    qk_nope_head_dim=0,
    qk_rope_head_dim=8,
    v_head_dim=8,
)


def _logits(cfg, attention, layer, head):
    """The matrix between the inputs of a query and a key."""
    if cfg.qk_norm:
        return np.diag(attention["q_head_norm"][layer] * attention["k_head_norm"][layer])
    if cfg.kv_lora_rank is None:
        shared = head * cfg.num_kv_heads // cfg.num_heads
        return attention["wq"][layer, :, head] @ attention["wk"][layer, :, shared].T
    nope = cfg.qk_nope_head_dim
    keys = attention["wkv_b"][layer, :, head, :nope]
    return attention["wq"][layer, :, head, :nope] @ keys.T


@pytest.mark.parametrize(
    "cfg",
    [LATENT, GROUPED, dataclasses.replace(GROUPED, qk_norm=True)],
    ids=["latent", "grouped", "head_norms"],
)
def test_qk_spectral_norms_are_the_largest_singular_values(cfg):
    shapes = jax.eval_shape(lambda: model.init_params(cfg, jax.random.key(0)))
    rng = np.random.default_rng(0)
    attention = {
        name: rng.standard_normal(leaf.shape, np.float32)
        for name, leaf in shapes["dense_layers"]["attention"].items()
    }
    got = jax.jit(diagnostics.qk_spectral_norms, static_argnums=1)(attention, cfg)
    want = [
        [np.linalg.norm(_logits(cfg, attention, layer, head), 2) for head in range(cfg.num_heads)]
        for layer in range(cfg.num_layers)
    ]
    np.testing.assert_allclose(got, want, rtol=0.03)  # 24 power iterations
