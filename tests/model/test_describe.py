import dataclasses
import math

import jax
import numpy as np
import pytest
from numpy_model import AUDIO, GROUPED, SMALL, VISION, init, jit

from kanana_jax import model
from kanana_jax.model import presets, rope
from kanana_jax.optim import qk_clip
from kanana_jax.optim.specs import viewed_shape

VARIANTS = {
    "small": SMALL,
    "query_compression": dataclasses.replace(SMALL, q_lora_rank=12),
    "tied_without_shared": dataclasses.replace(SMALL, tie_embeddings=True, num_shared_experts=0),
    "all_dense": dataclasses.replace(SMALL, num_dense_layers=3),
    "all_moe": dataclasses.replace(SMALL, num_dense_layers=0),
    "no_gains": dataclasses.replace(SMALL, q_lora_rank=12, norm_gain="none"),
    "grouped": GROUPED,
    "own_key_heads": dataclasses.replace(GROUPED, num_kv_heads=4),
    "head_norms": dataclasses.replace(GROUPED, qk_norm=True),
    "images": dataclasses.replace(SMALL, vision=VISION),
    "images_abstracted": dataclasses.replace(
        SMALL, vision=dataclasses.replace(VISION, projector="c_abstractor")
    ),
    "images_and_sounds": dataclasses.replace(SMALL, vision=VISION, audio=AUDIO),
}


def shapes_and_specs(cfg, split):
    shapes = jax.eval_shape(lambda: model.init_params(cfg, jax.random.key(0)))
    specs = model.describe(cfg, split)
    assert jax.tree.structure(shapes) == jax.tree.structure(specs)
    paths, _ = jax.tree_util.tree_flatten_with_path(shapes)
    return [
        (jax.tree_util.keystr(path), leaf.shape, spec)
        for (path, leaf), spec in zip(paths, jax.tree.leaves(specs), strict=True)
    ]


@pytest.mark.parametrize("split", ["none", "parts", "heads"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_leaf_is_described_in_its_own_shape(name, split):
    cfg = VARIANTS[name]
    for path, shape, spec in shapes_and_specs(cfg, split):
        assert len(spec.logical_axes) == len(shape), path
        assert (spec.logical_axes[0] == "layers") == ("layers" in path), path
        if spec.matrix is not None:
            assert spec.matrix.ndim == len(shape), path
            if spec.matrix.split_axis is not None:
                assert sum(spec.matrix.split_sizes) == shape[spec.matrix.split_axis], path
        if spec.qk_clip is not None:
            viewed = viewed_shape(shape, spec.qk_clip)
            heads = spec.qk_clip.heads or [(head,) for head in range(cfg.num_heads)]
            assert viewed[spec.qk_clip.head_axis] == len(heads), path
            assert [head for entry in heads for head in entry] == list(range(cfg.num_heads)), path
            sizes = [size for size, _ in spec.qk_clip.segments]
            assert sum(sizes) == viewed[spec.qk_clip.segment_axis], path
        is_vector = spec.role in ("norm", "embedding", "head")
        assert (spec.matrix is None) == is_vector, path


def one_matrix(cfg, split, leaf):
    """(rows, cols) of the matrices of one leaf of the MoE stack."""
    stacked = {path: (shape, spec) for path, shape, spec in shapes_and_specs(cfg, split)}
    shape, spec = stacked[f"['moe_layers']{leaf}"]
    rows = math.prod(shape[axis] for axis in spec.matrix.rows)
    cols = math.prod(shape[axis] for axis in spec.matrix.cols)
    return rows, cols, spec.matrix.split_sizes


def test_matrices_are_those_of_the_layer():
    attention = "['attention']"
    assert one_matrix(SMALL, "none", attention + "['wkv_b']") == (16, 2 * (8 + 6), ())
    assert one_matrix(SMALL, "parts", attention + "['wkv_b']") == (16, 2 * (8 + 6), (8, 6))
    assert one_matrix(SMALL, "heads", attention + "['wkv_b']") == (16, 8 + 6, (8, 6))
    assert one_matrix(SMALL, "parts", attention + "['wq']") == (32, 2 * (8 + 4), ())
    assert one_matrix(SMALL, "heads", attention + "['wq']") == (32, 8 + 4, ())
    assert one_matrix(SMALL, "heads", attention + "['wo']") == (2 * 6, 32, ())
    assert one_matrix(SMALL, "parts", "['mlp']['w_gate_up']") == (32, 24, ())
    assert one_matrix(SMALL, "parts", "['mlp']['w_down']") == (24, 32, ())
    assert one_matrix(SMALL, "parts", "['mlp']['shared']['w_gate_up']") == (32, 48, ())
    assert one_matrix(SMALL, "parts", "['mlp']['router']") == (32, 8, ())


@pytest.mark.parametrize("q_lora_rank", [None, 12])
def test_scaling_by_the_exponents_scales_one_heads_logits_by_gamma(q_lora_rank):
    cfg = dataclasses.replace(SMALL, q_lora_rank=q_lora_rank)
    params = init(cfg)
    specs = model.describe(cfg)
    layer, head, gamma = 2, 1, 0.25  # the second MoE layer: layer 2 of the model

    def scaled(leaf, spec):
        clip = spec.qk_clip
        if clip is None or clip.first_layer != cfg.num_dense_layers:
            return leaf
        factor = np.concatenate([np.full(size, gamma**e) for size, e in clip.segments])
        index = (layer - clip.first_layer, slice(None), head)
        leaf = np.array(leaf)
        leaf[index] *= factor.astype(np.float32)
        return leaf

    clipped = jax.tree.map(scaled, params, specs)

    @jit
    def scores_and_values(params):
        stack = model.bind(cfg, params, presets.LAPTOP).moe_layers.attention
        attention = jax.tree.map(lambda leaf: leaf[layer - cfg.num_dense_layers], stack)
        x = jax.random.normal(jax.random.key(1), (1, 5, cfg.hidden_size))
        by = rope.rotation(cfg, jax.numpy.arange(5)[None])
        k, v = attention.keys_and_values(*attention.latents(x, by), attention.wkv_b[...])
        return jax.numpy.einsum("bshk,bthk->hst", attention.queries(x, by), k), v

    (before, values), (after, same_values) = scores_and_values(params), scores_and_values(clipped)
    np.testing.assert_array_equal(same_values, values)
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_allclose(
        after[1], gamma * before[1], rtol=0, atol=1e-5 * np.abs(before).max()
    )
    assert sum(spec.qk_clip is not None for spec in jax.tree.leaves(specs)) == 4


@pytest.mark.parametrize("name", ["grouped", "own_key_heads", "head_norms"])
def test_qk_clip_scales_the_logits_of_grouped_queries_by_gamma(name):
    """Gamma is a head's own where its weights are scaled, its layer's smallest with head norms."""
    cfg = VARIANTS[name]
    params, clip_specs = init(cfg), jax.tree.map(lambda spec: spec.qk_clip, model.describe(cfg))
    layer = 2  # the second MoE layer
    max_logits = np.ones((cfg.num_layers, cfg.num_heads), np.float32)
    max_logits[layer] = [4.0, 1.0, 0.5, 2.0]
    clip = qk_clip(1.0, clip_specs)
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = jit(clip.update)(zeros, clip.init(params), params, max_logits=max_logits)
    clipped = jax.tree.map(np.add, params, updates)

    @jit
    def scores(params):
        stack = model.bind(cfg, params, presets.LAPTOP).moe_layers.attention
        attention = jax.tree.map(lambda leaf: leaf[layer - cfg.num_dense_layers], stack)
        x = jax.random.normal(jax.random.key(1), (1, 5, cfg.hidden_size))
        by = rope.rotation(cfg, jax.numpy.arange(5)[None])
        k = jax.numpy.repeat(attention.keys(x, by), cfg.num_heads // cfg.num_kv_heads, axis=2)
        return jax.numpy.einsum("bshk,bthk->hst", attention.queries(x, by), k)

    before, after = scores(params), scores(clipped)
    gamma = np.array([0.25, 1.0, 1.0, 0.5]) if not cfg.qk_norm else np.full(4, 0.25)
    want = gamma[:, None, None] * before
    np.testing.assert_allclose(after, want, rtol=0, atol=1e-5 * np.abs(before).max())
    np.testing.assert_array_equal(
        clipped["dense_layers"]["attention"]["wq"], params["dense_layers"]["attention"]["wq"]
    )


def test_an_unknown_split_raises():
    with pytest.raises(ValueError, match="'none', 'parts' or 'heads', got 'gate'"):
        model.describe(SMALL, "gate")
