"""Measures of gains and of norms' outputs, on numbers for which they are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kanana_jax import model
from kanana_jax.batch import Batch
from kanana_jax.jobs import gains
from kanana_jax.model import presets

pytestmark = pytest.mark.slow

CFG = dataclasses.replace(presets.tiny_family(32, vocab_size=31), zero_centered_gamma=True)


def test_kurtosis_of_normal_numbers_is_none_and_of_outliers_large():
    y = np.random.default_rng(0).standard_normal((4, 500, 128), np.float32)
    assert abs(float(gains.kurtosis(jnp.asarray(y)))) < 0.05
    y[..., 7] *= 20
    assert float(gains.kurtosis(jnp.asarray(y))) > 50


@pytest.mark.long
def test_fp8_error_is_that_of_three_bits():
    y = np.random.default_rng(0).standard_normal((1, 64, 256), np.float32)
    assert 0.02 < float(gains.fp8_error(jnp.asarray(y))) < 0.04
    assert float(gains.fp8_error(jnp.ones((1, 2, 128)))) == 0.0


@pytest.mark.long
def test_sizes_are_those_of_the_gains():
    weights = jax.tree.map(
        jnp.zeros_like, jax.eval_shape(lambda: model.init(CFG, jax.random.key(0)))
    )
    weights.params["moe_layers"]["mlp_norm"] = (
        weights.params["moe_layers"]["mlp_norm"].at[0, 3].set(-3.0)
    )
    found = gains.sizes(CFG, weights)
    assert found["gain_max_post_attention"] == pytest.approx(2.0)
    assert found["gain_max_input"] == 1.0 and found["gain_spread_input"] == 0.0
    assert found["gain_spread_post_attention"] > 0.1
    assert "gain_max_q_latent" not in found


@pytest.mark.long
def test_outputs_are_those_of_the_norms():
    """Layers applied one by one end where the model ends."""
    cfg = dataclasses.replace(CFG, num_layers=1, num_dense_layers=1)
    batch = Batch.of_tokens(np.random.default_rng(0).integers(0, 31, (2, 17)))

    @jax.jit
    def both(key):
        weights = model.init(cfg, key)
        hidden, _ = model.hidden_states(cfg, weights, batch.inputs, presets.LAPTOP)
        return gains.outputs(cfg, weights, batch, presets.LAPTOP), gains.kurtosis(hidden)

    found, want = both(jax.random.key(0))
    np.testing.assert_allclose(found["kurtosis_final"], want, rtol=1e-3, atol=1e-4)
    assert set(found) == {
        f"{what}_{where}" for what in ("kurtosis", "fp8_error") for where in ("input", "final")
    }
