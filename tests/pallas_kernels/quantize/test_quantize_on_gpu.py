"""The Hopper kernels that quantise, on a Hopper GPU: bit for bit what XLA makes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import quantize as q
from pallas_kernels.quantize import cases

pytestmark = pytest.mark.gpu


def hostile(shape, seed=0):
    """Numbers of many sizes, zeros, outliers, denormals, NaN and infinities."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(-6, 7, (*shape[:-1], 1))
    for i, factor in enumerate((2.0**118, 2.0**-110, 1e-39, 0.0)):
        x[..., i, :] *= factor
    x = x.astype(np.float32)
    x[..., 4, 0], x[..., 5, 1], x[..., 6, 2], x[..., 7, 3] = np.nan, np.inf, -np.inf, 1e4
    return x


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("scale", ["power_of_two", "float32"])
@pytest.mark.parametrize(
    ("shape", "block"),
    [
        ((64, 128), q.ROW_BLOCK),
        ((1000, 768), q.ROW_BLOCK),
        ((3, 40, 384), q.ROW_BLOCK),
        ((128, 128), q.SQUARE_BLOCK),
        ((3, 256, 384), q.SQUARE_BLOCK),
    ],
)
def test_values_and_scales_are_those_of_xla(shape, block, scale, dtype):
    x = jnp.asarray(hostile(shape), dtype)
    run = functools.partial(q.quantize, block=block, scale=scale, implementation="mosaic_gpu")
    got = jax.jit(run)(x)
    want = jax.jit(functools.partial(q.quantize, block=block, scale=scale, implementation="xla"))(x)
    np.testing.assert_allclose(got.scales, want.scales, rtol=0 if scale != "float32" else 2**-22)
    found, wanted = np.float32(got.values), np.float32(want.values)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    differs = np.nan_to_num(found) != np.nan_to_num(wanted)
    # A quotient that lies between two values may be rounded either way.
    assert differs.mean() <= (0.01 if scale == "float32" else 0)


@pytest.mark.parametrize("case", cases.BENCHMARK_CASES, ids=lambda case: case.name)
def test_what_is_timed_is_right(case):
    x = jnp.asarray(cases.make_inputs(case)[0], jnp.bfloat16)
    run = functools.partial(q.quantize, block=case.block)
    got, want = (jax.jit(functools.partial(run, implementation=name))(x)
                 for name in ("mosaic_gpu", "xla"))  # fmt: skip
    assert (got.scales == want.scales).all()
    assert (jax.lax.bitcast_convert_type(got.values, jnp.uint8)
            == jax.lax.bitcast_convert_type(want.values, jnp.uint8)).all()  # fmt: skip
