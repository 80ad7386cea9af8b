"""QK-Clip rescales the right columns of the right heads in the right layers, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kanana_jax import optim

L, D, H, N, R, U, C = 2, 6, 3, 4, 2, 5, 7
TAU = 30.0
SPECS = {
    "wq": optim.QKClipSpec(layer_axis=0, head_axis=2, segments=((N, 0.5), (R, 1.0))),
    "wkv_b": optim.QKClipSpec(layer_axis=0, head_axis=2, segments=((N, 0.5), (U, 0.0))),
    "wo": None,
}


def example():
    keys = jax.random.split(jax.random.key(0), 6)
    shapes = {"wq": (L, D, H, N + R), "wkv_b": (L, C, H, N + U), "wo": (L, H, U, D)}
    params = {
        name: jax.random.normal(k, s) for (name, s), k in zip(shapes.items(), keys, strict=False)
    }
    updates = jax.tree.map(lambda p: 0.1 * jnp.cos(9.0 * p), params)
    return params, updates


def clip(max_logits, specs=SPECS, **options):
    params, updates = example()
    clipper = optim.qk_clip(TAU, specs, **options)
    new, state = clipper.update(updates, clipper.init(params), params, max_logits=max_logits)
    return params, updates, new, state


def attention_logits(params, x_SD, c_SC, rope_key_SR):
    q_LSHK = jnp.einsum("SD,LDHK->LSHK", x_SD, params["wq"])
    k_LSHN = jnp.einsum("SC,LCHN->LSHN", c_SC, params["wkv_b"][..., :N])
    from_nope = jnp.einsum("LSHN,LTHN->LHST", q_LSHK[..., :N], k_LSHN)
    return from_nope + jnp.einsum("LSHR,TR->LHST", q_LSHK[..., N:], rope_key_SR)


def test_clip_leaves_small_logits_bitwise_unchanged():
    _, updates, new, state = clip(jnp.full((L, H), TAU))
    jax.tree.map(np.testing.assert_array_equal, new, updates)
    assert not np.any(state.num_clips)


def test_clip_multiplies_the_new_weights_logits_by_gamma():
    max_logits = jnp.array([[10.0, 60.0, 20.0], [300.0, 30.0, 45.0]])
    params, updates, new, state = clip(max_logits)
    keys = jax.random.split(jax.random.key(1), 3)
    inputs = [jax.random.normal(k, (8, n)) for k, n in zip(keys, (D, C, R), strict=True)]
    before = attention_logits(optax.apply_updates(params, updates), *inputs)
    after = attention_logits(optax.apply_updates(params, new), *inputs)
    gamma = np.minimum(1.0, TAU / np.asarray(max_logits))
    np.testing.assert_allclose(after, before * gamma[:, :, None, None], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(state.gamma, gamma, rtol=1e-6)


def test_clip_touches_only_query_and_key_columns_of_heads_that_fire():
    _, updates, new, _ = clip(jnp.zeros((L, H)).at[1, 2].set(2 * TAU))
    for name, touched in (("wq", np.s_[1, :, 2]), ("wkv_b", np.s_[1, :, 2, :N])):
        changed = np.array(new[name] != updates[name])
        assert changed[touched].all()
        changed[touched] = False
        assert not changed.any()
    np.testing.assert_array_equal(new["wo"], updates["wo"])


@pytest.mark.parametrize("bad", [0.0, -5.0, -np.inf, np.inf, np.nan])
def test_clip_ignores_maxima_that_carry_no_scale(bad):
    _, updates, new, state = clip(jnp.full((L, H), bad))
    jax.tree.map(np.testing.assert_array_equal, new, updates)
    expected = 0 if bad <= 0 else 1
    np.testing.assert_array_equal(state.num_nonfinite, np.full((L, H), expected))


def test_report_counts_clips_per_layer_and_head():
    params, updates = example()
    clipper = optax.chain(optax.scale(1.0), optim.qk_clip(TAU, SPECS))
    state = clipper.init(params)
    for peak in (2 * TAU, TAU / 2, 4 * TAU):
        max_logits = jnp.zeros((L, H)).at[0, 1].set(peak)
        _, state = clipper.update(updates, state, params, max_logits=max_logits)
    report = optim.clip_report(state)
    assert report["num_clips"].sum() == report["num_clips"][0, 1] == 2
    assert report["last_clipped_step"][0, 1] == 2 and report["last_clipped_step"][1, 1] == -1
    np.testing.assert_allclose(report["min_gamma"][0, 1], 0.25)
    np.testing.assert_allclose(report["gamma"][0, 1], 0.25)


def test_missing_or_misshapen_statistics_and_empty_specs_raise_with_the_fix():
    params, updates = example()
    clipper = optim.qk_clip(TAU, SPECS)
    state = clipper.init(params)
    with pytest.raises(ValueError, match=r"max_logits with shape \(2, 3\), got None"):
        clipper.update(updates, state, params)
    with pytest.raises(ValueError, match=r"got \(3,\)"):
        clipper.update(updates, state, params, max_logits=jnp.zeros(H))
    with pytest.raises(ValueError, match="needs params"):
        clipper.update(updates, state, max_logits=jnp.zeros((L, H)))
    with pytest.raises(ValueError, match="found no QKClipSpec"):
        optim.qk_clip(TAU, dict.fromkeys(SPECS)).init(params)
    with pytest.raises(ValueError, match="structure of the parameter tree"):
        optim.qk_clip(TAU, {"wq": SPECS["wq"]}).init(params)
