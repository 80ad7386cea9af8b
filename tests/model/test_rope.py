import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from numpy_model import SMALL

from kanana_jax.config import YarnConfig
from kanana_jax.model import presets, rope

CFG = dataclasses.replace(SMALL, qk_rope_head_dim=8)


def dot_after_turning(q, k, q_position, k_position, cfg=CFG):
    def turned(x, position):
        by = rope.rotation(cfg, jnp.full((1, 1), position, jnp.int32))
        return np.asarray(rope.rotate(x[None, None, None], by), np.float64).ravel()

    return turned(q, q_position) @ turned(k, k_position)


def test_scores_depend_on_relative_position_only():
    q, k = jax.random.normal(jax.random.key(0), (2, 8))
    want = dot_after_turning(q, k, 7, 3)
    for shift in (1, 100, 4000):
        # An angle of p radians carries p float32 roundings.
        tolerance = (7 + shift) * np.finfo(np.float32).eps * 8
        np.testing.assert_allclose(
            dot_after_turning(q, k, 7 + shift, 3 + shift), want, atol=tolerance, rtol=0
        )
    assert abs(dot_after_turning(q, k, 7, 4) - want) > 1e-2


def test_neighbours_form_the_pairs_and_halves_are_split_in_the_result():
    by = rope.rotation(CFG, jnp.ones((1, 1), jnp.int32))
    x = jnp.zeros((1, 1, 1, 8)).at[..., 2].set(1.0)  # the first number of pair 1
    got = np.asarray(rope.rotate(x, by)).ravel()
    angle = CFG.rope_theta ** (-2 / 8)
    want = np.zeros(8)
    want[[1, 5]] = np.cos(angle), np.sin(angle)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_position_zero_leaves_lengths_alone():
    x = jax.random.normal(jax.random.key(1), (1, 3, 2, 8))
    by = rope.rotation(CFG, jnp.zeros((1, 3), jnp.int32))
    want = jnp.concatenate([x[..., 0::2], x[..., 1::2]], axis=-1)
    np.testing.assert_array_equal(rope.rotate(x, by), want)


def test_yarn_keeps_fast_pairs_and_slows_slow_pairs_by_the_factor():
    cfg = presets.deepseek_v3()
    plain = rope.frequencies(dataclasses.replace(cfg, yarn=None))
    ratio = rope.frequencies(cfg) / plain
    # 32 turns in 4096 positions: pair 10.4; 1 turn: pair 22.5 (of 32).
    np.testing.assert_allclose(ratio[:11], 1.0)
    np.testing.assert_allclose(ratio[23:], 1 / 40)
    assert np.all(np.diff(ratio[10:24]) < 0)


def test_softmax_scale_carries_the_square_of_mscale():
    cfg = presets.deepseek_v3()
    np.testing.assert_allclose(
        rope.softmax_scale(cfg), 192**-0.5 * (0.1 * np.log(40) + 1) ** 2, rtol=1e-12
    )
    plain = dataclasses.replace(cfg, yarn=None)
    np.testing.assert_allclose(rope.softmax_scale(plain), 192**-0.5, rtol=1e-12)


def test_mscale_is_on_the_angles_when_the_softmax_does_not_take_it():
    yarn = YarnConfig(factor=4.0, original_max_positions=64, mscale_all_dim=0.0)
    cfg = dataclasses.replace(CFG, yarn=yarn)
    by = rope.rotation(cfg, jnp.arange(5, dtype=jnp.int32)[None])
    length = np.hypot(by.cos_BSr, by.sin_BSr)
    np.testing.assert_allclose(length, 0.1 * np.log(4.0) + 1.0, rtol=1e-6)
    np.testing.assert_allclose(rope.softmax_scale(cfg), cfg.qk_head_dim**-0.5, rtol=1e-12)
