"""Random weights of a small model with every part, drawn by numpy, large enough to matter."""

import dataclasses
import functools

import jax
import numpy as np

from kanana_jax import model
from kanana_jax.config import ModelConfig, VisionConfig, YarnConfig
from kanana_jax.generate import unstacked

CFG = ModelConfig(
    vocab_size=258,
    hidden_size=32,
    num_layers=3,
    num_dense_layers=1,
    num_heads=2,
    q_lora_rank=12,
    kv_lora_rank=16,
    qk_nope_head_dim=8,
    qk_rope_head_dim=4,
    v_head_dim=6,
    intermediate_size=40,
    moe_intermediate_size=24,
    num_experts=8,
    num_experts_per_token=3,
    num_shared_experts=1,
    routed_scaling_factor=2.5,
    yarn=YarnConfig(factor=4.0, original_max_positions=8, beta_fast=2.0, mscale=0.7),
    rope_theta=100.0,
)
# A layer of each kind, where the stacks are not the point: every layer is compiled.
SHALLOW = dataclasses.replace(CFG, num_layers=2)
# One layer that reads images, too.
READER = dataclasses.replace(
    CFG,
    num_layers=1,
    yarn=None,
    vision=VisionConfig(
        patch_size=2,
        num_channels=1,
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        intermediate_size=24,
        position_grid=3,
    ),
)


def random_weights(cfg: ModelConfig):
    """As training has them."""
    rng = np.random.default_rng(0)

    def one(path, leaf):
        x = rng.standard_normal(leaf.shape, np.float32)
        return 1.0 + 0.1 * x if "norm" in str(path[-1]) else np.float32(0.2) * x

    shapes = jax.eval_shape(functools.partial(model.init_params, cfg), jax.random.key(0))
    bias = 0.1 * rng.standard_normal((cfg.num_moe_layers, cfg.num_experts)).astype(np.float32)
    params = jax.tree_util.tree_map_with_path(one, shapes)
    return jax.tree.map(jax.numpy.asarray, model.Weights(params, {"router_bias": bias}))


def prepared(cfg: ModelConfig):
    """The same, as decoding reads them."""
    return unstacked.from_stacks(cfg, random_weights(cfg))
