"""Weights kept beside the parameters: the interval average and the float32 master copy."""

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
