"""QK-Clip rescales the right columns of the right heads in the right layers, and nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kanana_jax import optim

L, D, H, N, R, U, C = 2, 6, 3, 4, 2, 5, 7
TAU = 30.0
SPECS = {
    "wq": optim.QKClipSpec(layer_axis=0, head_axis=2, segments=((N, 0.5), (R, 1.0))),
    "wkv_b": optim.QKClipSpec(layer_axis=0, head_axis=2, segments=((N, 0.5), (U, 0.0))),
    "wo": None,
}
MATRICES = {
    "wq": optim.MatrixSpec(batch=(0,), rows=(1,), cols=(2, 3)),
    "wkv_b": optim.MatrixSpec(batch=(0,), rows=(1,), cols=(2, 3)),
    "wo": optim.MatrixSpec(batch=(0,), rows=(1, 2), cols=(3,)),
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


def test_clip_by_layer_gives_all_its_heads_the_factor_of_the_largest():
    nan = float("nan")
    by_head = jnp.array([[10.0, 60.0, 40.0], [nan, 20.0, 45.0]])
    *_, of_heads, heads = clip(by_head)
    *_, of_layers, layers = clip(by_head, per_layer=True)
    *_, expected, _ = clip(jnp.array([[60.0] * 3, [45.0] * 3]))
    np.testing.assert_allclose(heads.gamma, [[1.0, 0.5, 0.75], [1.0, 1.0, 2 / 3]])
    np.testing.assert_allclose(layers.gamma, [[0.5] * 3, [2 / 3] * 3])
    jax.tree.map(np.testing.assert_array_equal, of_layers, expected)
    assert np.any(of_heads["wq"] != of_layers["wq"])


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


def logits_of(q_SHK, k_SHK):
    return jnp.einsum("SHK,THK->HST", q_SHK, k_SHK)


def clipped_weights(params, specs, max_logits, **options):
    clipper = optim.qk_clip(TAU, specs, **options)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, state = clipper.update(zeros, clipper.init(params), params, max_logits=max_logits)
    return optax.apply_updates(params, updates), state


def test_grouped_queries_take_the_whole_gamma_and_shared_keys_stay():
    # Four query heads read two key heads. As with MLA's shared rope key, a key that other heads
    # read is left alone and its query takes gamma in full.
    wq_DHK = jax.random.normal(jax.random.key(0), (D, 4, N))
    wk_DHK = jax.random.normal(jax.random.key(1), (D, 2, N))
    specs = {
        "wk": None,
        "wq": optim.QKClipSpec(layer_axis=None, head_axis=1, segments=((N, 1.0),)),
    }
    max_logits = jnp.array([[3 * TAU, TAU, 5.0, 2 * TAU]])
    new, _ = clipped_weights({"wk": wk_DHK, "wq": wq_DHK}, specs, max_logits)
    x_SD = jax.random.normal(jax.random.key(2), (5, D))
    old_SHK, new_SHK = (jnp.einsum("SD,DHK->SHK", x_SD, w) for w in (wq_DHK, new["wq"]))
    keys_SHK = jnp.repeat(jnp.einsum("SD,DHK->SHK", x_SD, new["wk"]), 2, axis=1)
    gamma_H = np.minimum(1.0, TAU / np.asarray(max_logits[0]))
    np.testing.assert_allclose(
        logits_of(new_SHK, keys_SHK),
        logits_of(old_SHK, keys_SHK) * gamma_H[:, None, None],
        rtol=1e-4,
        atol=1e-4,
    )


def test_an_entry_read_by_several_heads_takes_their_smallest_gamma():
    spec = optim.QKClipSpec(
        layer_axis=None, head_axis=0, segments=((N, 1.0),), heads=((0, 1), (2,), ())
    )
    params = {"wk": jnp.ones((3, N))}
    max_logits = jnp.array([[2 * TAU, 4 * TAU, 8 * TAU]])
    new, _ = clipped_weights(params, {"wk": spec}, max_logits)
    np.testing.assert_allclose(new["wk"][:, 0], [0.25, 0.125, 1.0])


def test_fused_query_key_value_weights_are_clipped_by_segment():
    spec = optim.QKClipSpec(
        layer_axis=0,
        head_axis=3,
        segment_axis=2,
        segments=((1, 0.5), (1, 0.5), (1, 0.0)),
        view=(L, D, 3, H, N),
    )
    params = {"wqkv": jnp.ones((L, D, 3 * H * N))}
    new, _ = clipped_weights(params, {"wqkv": spec}, jnp.full((L, H), 4 * TAU))
    fused = np.asarray(new["wqkv"]).reshape(L, D, 3, H, N)
    np.testing.assert_allclose(fused[:, :, :2], 0.5)
    np.testing.assert_array_equal(fused[:, :, 2], 1.0)


def test_a_list_of_layers_may_have_layers_without_attention():
    # Layer 1 has no attention: its row of the statistic belongs to no leaf.
    spec = optim.QKClipSpec(layer_axis=None, head_axis=1, segments=((N, 1.0),))
    last = dataclasses.replace(spec, first_layer=2)
    params = [{"wq": jnp.ones((D, H, N))}, {"mlp": jnp.ones((D, D))}, {"wq": jnp.ones((D, H, N))}]
    specs = [{"wq": spec}, {"mlp": None}, {"wq": last}]
    max_logits = jnp.full((3, H), TAU).at[1].set(9 * TAU).at[2, 1].set(2 * TAU)
    new, state = clipped_weights(params, specs, max_logits)
    np.testing.assert_array_equal(new[0]["wq"], params[0]["wq"])
    np.testing.assert_array_equal(new[1]["mlp"], params[1]["mlp"])
    np.testing.assert_allclose(new[2]["wq"][:, 1], 0.5)
    np.testing.assert_array_equal(state.num_clips, [[0] * H, [0] * H, [0, 1, 0]])


def test_shape_covers_trailing_layers_without_attention():
    spec = optim.QKClipSpec(layer_axis=None, head_axis=1, segments=((N, 1.0),))
    params = {"wq": jnp.ones((D, H, N))}
    new, state = clipped_weights(params, {"wq": spec}, jnp.full((4, H), 2 * TAU), shape=(4, H))
    np.testing.assert_allclose(new["wq"], 0.5)
    assert state.num_clips.shape == (4, H) and int(state.num_clips.sum()) == H
    with pytest.raises(ValueError, match="beyond shape"):
        clipped_weights(params, {"wq": spec}, jnp.zeros((1, 2)), shape=(1, 2))


def test_two_stacks_count_layers_over_the_whole_model():
    spec = SPECS["wq"]
    later = dataclasses.replace(spec, first_layer=L)
    params = {"dense": jnp.ones((L, D, H, N + R)), "moe": jnp.ones((L, D, H, N + R))}
    max_logits = jnp.zeros((2 * L, H)).at[L, 0].set(4 * TAU)
    new, _ = clipped_weights(params, {"dense": spec, "moe": later}, max_logits)
    np.testing.assert_array_equal(new["dense"], params["dense"])
    np.testing.assert_allclose(new["moe"][0, :, 0], [[0.5] * N + [0.25] * R] * D)
    np.testing.assert_array_equal(new["moe"][1], params["moe"][1])


def test_monitor_only_records_and_changes_nothing():
    _, updates, new, state = clip(jnp.full((L, H), 3 * TAU), monitor_only=True)
    jax.tree.map(np.testing.assert_array_equal, new, updates)
    np.testing.assert_array_equal(state.num_clips, np.ones((L, H)))


@pytest.mark.parametrize("make", [optim.adamw, lambda lr: optim.muon(lr, MATRICES)])
def test_clip_after_any_optimizer_scales_the_weights_it_would_have_made(make):
    params, grads = example()
    plain, clipper = make(0.1), optim.qk_clip(TAU, SPECS)
    chained = optax.chain(plain, clipper)
    max_logits = jnp.full((L, H), 4 * TAU)
    expected, _ = plain.update(grads, plain.init(params), params)
    got, _ = chained.update(grads, chained.init(params), params, max_logits=max_logits)
    unclipped = optax.apply_updates(params, expected)
    clipped = optax.apply_updates(params, got)
    np.testing.assert_allclose(clipped["wq"][..., :N], 0.5 * unclipped["wq"][..., :N], rtol=1e-4)
    np.testing.assert_allclose(clipped["wq"][..., N:], 0.25 * unclipped["wq"][..., N:], rtol=1e-4)
    np.testing.assert_array_equal(got["wkv_b"][..., N:], expected["wkv_b"][..., N:])


def test_bfloat16_weights_end_within_half_a_unit_of_the_clipped_ones():
    params = {"wq": jax.random.normal(jax.random.key(0), (D, H, N)).astype(jnp.bfloat16)}
    spec = optim.QKClipSpec(layer_axis=None, head_axis=1, segments=((N, 1.0),))
    new, _ = clipped_weights(params, {"wq": spec}, jnp.full((1, H), 1.3 * TAU))
    exact = np.asarray(params["wq"], np.float32) / 1.3
    # The update and the sum are each rounded to 2^-9.
    np.testing.assert_allclose(np.asarray(new["wq"], np.float32), exact, rtol=2 * 2.0**-8)


FINITE = st.floats(-(2.0**13), 2.0**100, width=32)
ANY_MAXIMUM = st.one_of(FINITE, st.sampled_from([np.nan, np.inf, -np.inf, 0.0]))


@settings(max_examples=20, deadline=None)
@given(max_logits=arrays(np.float32, (L, H), elements=ANY_MAXIMUM))
def test_new_weights_are_finite_and_never_larger_whatever_the_statistic(max_logits):
    params, updates = example()
    new, state = compiled_clip(updates, params, jnp.asarray(max_logits))
    before, after = (optax.apply_updates(params, u) for u in (updates, new))
    for name in SPECS:
        assert np.isfinite(after[name]).all()
        # Adding u' to p again rounds by an ulp of the larger of the two.
        assert (np.abs(after[name]) <= np.abs(before[name]) + 1e-6).all()
    fires = np.isfinite(max_logits) & (max_logits > TAU)
    np.testing.assert_array_equal(state.num_clips, fires)


@jax.jit
def compiled_clip(updates, params, max_logits):
    clipper = optim.qk_clip(TAU, SPECS)
    return clipper.update(updates, clipper.init(params), params, max_logits=max_logits)


def test_specs_that_do_not_fit_raise_with_the_leaf():
    params, _ = example()
    wrong = dataclasses.replace(SPECS["wq"], segments=((N, 0.5),))
    with pytest.raises(ValueError, match=r"at 'wq': segments .* add up to 6"):
        optim.qk_clip(TAU, SPECS | {"wq": wrong}).init(params)
    wrong = dataclasses.replace(SPECS["wq"], heads=((0,),))
    with pytest.raises(ValueError, match="at 'wq': heads must list"):
        optim.qk_clip(TAU, SPECS | {"wq": wrong}).init(params)
    with pytest.raises(ValueError, match="tau > 0"):
        optim.qk_clip(0.0, SPECS)
    with pytest.raises(ValueError, match="found 0"):
        optim.clip_report(optax.sgd(0.1).init(params))


def test_accumulation_takes_the_largest_logit_of_the_micro_batches():
    params, grads = example()
    peaks = [jnp.full((L, H), 0.7 * TAU).at[0, 0].set(peak) for peak in (4 * TAU, 1.0, 2 * TAU)]
    optimizer = optim.accumulate(optax.chain(optax.scale(-0.1), optim.qk_clip(TAU, SPECS)), 3)
    state, step = optimizer.init(params), jax.jit(optimizer.update)
    for i, peak in enumerate(peaks):
        scaled = jax.tree.map(lambda g, i=i: (i + 1.0) * g, grads)
        updates, state = step(scaled, state, params, max_logits=peak)
        if i < 2:
            assert not any(np.any(u) for u in jax.tree.leaves(updates))
    # Summed, 0.7 tau would fire everywhere; the last alone would give gamma 1/2.
    gamma = np.ones((L, H))
    gamma[0, 0] = 0.25
    np.testing.assert_allclose(optim.clip_report(state)["gamma"], gamma)
    np.testing.assert_allclose(updates["wo"], -0.2 * grads["wo"], rtol=1e-6)
