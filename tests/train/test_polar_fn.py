"""What the training stack makes of an optimizer's configuration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kanana_jax import config, optim
from kanana_jax.train import optimizers


@pytest.mark.parametrize("implementation", ["auto", "xla"])
def test_polar_factors_are_those_of_optim_where_no_kernel_runs(implementation):
    # In float16 products of a kernel, with their sums, round otherwise.
    cfg = config.OptimizerConfig(polar_dtype="float16", polar_implementation=implementation)
    x = jax.random.normal(jax.random.key(0), (3, 24, 40))
    schedule = optim.polar_express(cfg.polar_steps)
    want = optim.polar(x, schedule, compute_dtype=jnp.float16)
    np.testing.assert_array_equal(optimizers.polar_fn(cfg)(x), want)
