"""Weights kept next to the parameters: the interval average and the float32 master copy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kanana_jax import optim


def test_average_moves_every_interval_only():
    optimizer = optax.chain(optax.sgd(1.0), optim.weight_average(0.6, interval_steps=3))
    params = jnp.array([1.0, 2.0])
    state, expected = optimizer.init(params), np.array([1.0, 2.0])
    for step in range(1, 8):
        updates, state = optimizer.update(jnp.array([0.1, -0.2]) * step, state, params)
        params = optax.apply_updates(params, updates)
        if step % 3 == 0:
            expected = 0.6 * expected + 0.4 * np.asarray(params)
        np.testing.assert_allclose(optim.averaged_params(state, params), expected, rtol=1e-6)


def _averaged_steps(interval_tokens, sizes):
    """The steps after which an average of decay 0 is the newest weights, and the last state."""
    params, state, found = jnp.zeros(()), None, []
    for step, size in enumerate(sizes, start=1):
        options = {"interval_tokens": interval_tokens, "tokens_per_step": size}
        optimizer = optim.weight_average(0.0, **options)
        state = optimizer.init(params) if state is None else state
        updates, state = optimizer.update(jnp.ones(()), state, params)
        params = optax.apply_updates(params, updates)
        found += [step] if state.average == params else []
    return found, state


def test_an_interval_of_tokens_goes_on_when_steps_become_longer():
    sizes = (30, 30, 30, 30, 50, 50, 100, 100)
    found, state = _averaged_steps(100, sizes)
    tokens = np.cumsum(sizes)
    assert found == [4, 6, 7, 8] == [*np.flatnonzero(np.diff(tokens // 100, prepend=0)) + 1]
    assert state.since_last == tokens[-1] % 100
    assert state.since_last.dtype == jnp.int32


def test_an_interval_near_the_end_of_int32_does_not_wrap():
    size = 1_900_000_000  # twice that is over 2^31
    found, state = _averaged_steps(2_000_000_000, (size,) * 4)
    assert found == [2, 3, 4]
    assert state.since_last == 4 * size % 2_000_000_000


def test_a_shorter_interval_than_the_state_was_made_with_is_kept_from_then_on():
    _, state = _averaged_steps(1000, (300, 300, 300))
    optimizer = optim.weight_average(0.0, interval_tokens=400, tokens_per_step=300)
    _, state = optimizer.update(jnp.ones(()), state, jnp.zeros(()))
    assert state.since_last == (900 + 300) % 400


def test_a_step_that_the_guard_undoes_is_none_to_the_average():
    inner = optax.chain(optax.scale(-1e30), optim.weight_average(interval_steps=2))
    optimizer = optim.skip_bad_steps(inner)
    params = jnp.ones(2)
    _, before = optimizer.update(jnp.full(2, 1e-30), optimizer.init(params), params)
    assert before.inner[1].since_last == 1
    for grads in (jnp.full(2, 1e10), jnp.array([np.nan, 0.0])):  # its update overflows; it is bad
        updates, after = optimizer.update(grads, before, params)
        assert after.consecutive_skips == 1
        np.testing.assert_array_equal(updates, np.zeros(2))
        jax.tree.map(np.testing.assert_array_equal, after.inner[1], before.inner[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval_tokens": 100}, "interval_tokens with tokens_per_step"),
        ({"tokens_per_step": 100}, "interval_tokens with tokens_per_step"),
        (
            {"interval_steps": 2, "interval_tokens": 100, "tokens_per_step": 10},
            "interval_steps alone",
        ),
        ({"interval_tokens": 100, "tokens_per_step": 101}, "at least 101 .* got 100"),
        ({"interval_tokens": 2**31, "tokens_per_step": 1}, "at most 2147483647, got 2147483648"),
    ],
)
def test_intervals_that_cannot_be_counted_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        optim.weight_average(**options)


def test_average_of_bfloat16_weights_is_kept_in_float32():
    optimizer = optim.weight_average(0.9)
    params = jnp.ones(3, jnp.bfloat16)
    state = optimizer.init(params)
    _, state = optimizer.update(jnp.ones(3, jnp.bfloat16), state, params)
    np.testing.assert_allclose(state.average, np.full(3, 1.1), rtol=1e-6)
    assert optim.averaged_params(state, params).dtype == jnp.bfloat16


def test_master_weights_take_steps_that_bfloat16_alone_loses():
    params = jnp.full(4, 1.0, jnp.bfloat16)
    optimizer = optim.with_master_weights(optax.sgd(1.0))
    state, plain = optimizer.init(params), params
    for _ in range(64):
        # 2^-10 is less than half a unit in the last place of 1.
        updates, state = optimizer.update(jnp.full(4, 2.0**-10, jnp.bfloat16), state, params)
        params = optax.apply_updates(params, updates)
        plain = optax.apply_updates(plain, jnp.full(4, -(2.0**-10), jnp.bfloat16))
    np.testing.assert_array_equal(np.asarray(params, np.float32), 1.0 - 64 * 2.0**-10)
    assert params.dtype == jnp.bfloat16
    assert float(plain[0]) != float(params[0])


def test_parameters_are_exactly_the_rounded_masters():
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.standard_normal((8, 8)), jnp.bfloat16)}
    optimizer = optim.with_master_weights(optim.muon(0.3))
    state, step = optimizer.init(params), jax.jit(optimizer.update)
    for seed in range(4):
        grads = {"w": jnp.asarray(rng.standard_normal((8, 8)) * 10.0**seed, jnp.bfloat16)}
        updates, state = step(grads, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_array_equal(params["w"], state.master["w"].astype(jnp.bfloat16))


def test_missing_pieces_raise():
    with pytest.raises(ValueError, match="needs params"):
        optimizer = optim.weight_average()
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
    with pytest.raises(ValueError, match="found 0"):
        optim.averaged_params(optax.sgd(0.1).init(jnp.ones(2)), jnp.ones(2))
