"""The Hopper kernel of symmetric products, interpreted on the CPU and lowered for CUDA."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.symmetric_matmul import reference
from pallas_kernels.symmetric_matmul.gpu import dispatch, kernel

FACTORS = dict(scale=0.5, addend_scale=-2.0, diagonal=4.0)
PLAIN = dict(scale=1.0, addend_scale=1.0, diagonal=0.0)


def commuting(batch, size, dtype):
    """Two polynomials of one random symmetric matrix, and the matrix."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, size, size)) / size**0.5
    gram = x @ x.swapaxes(1, 2) / 4
    pair = (gram, np.eye(size) - gram, gram)
    return tuple(jnp.asarray(x, dtype) for x in pair)


# Clusters of two blocks, several items for each, rows and columns beyond the end; two tiles per
# item with a missing second one; then one tile per item, where warpgroups take turns, with two
# operands.
INTERPRETED = (
    pytest.param(
        *((2, 320, 192), False, kernel.Config(2, 2, 2, num_clusters=2), jnp.bfloat16),
        id="clusters",
        marks=pytest.mark.long,
    ),
    pytest.param((2, 320, 192), False, kernel.Config(2, 1, 2, 3), jnp.bfloat16, id="pairs"),
    pytest.param(
        *((2, 320, 320), True, kernel.Config(1, 1, 3, num_clusters=2), jnp.float16),
        id="single",
        marks=pytest.mark.long,
    ),
)


@pytest.mark.parametrize("shape, has_two, config, dtype", INTERPRETED)
def test_interpreted_kernel_agrees_is_symmetric_and_has_no_races(
    shape, has_two, config, dtype, capfd
):
    if has_two:
        lhs, rhs, addend = commuting(*shape[:2], dtype)
    else:
        lhs = jnp.asarray(np.random.default_rng(0).standard_normal(shape), dtype)
        rhs, addend = lhs, None
    factors = FACTORS if has_two else PLAIN
    got = dispatch.matmul(lhs, rhs, addend, config=config, interpret=True, **factors)
    assert "RACE DETECTED" not in capfd.readouterr().out
    np.testing.assert_array_equal(got, got.mT)
    wide = [None if x is None else x.astype(jnp.float32) for x in (lhs, rhs, addend)]
    want = reference.matmul(*wide, **factors)
    atol = float(jnp.finfo(dtype).eps) * np.abs(want).max()
    np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=0, atol=atol)


LOWERED = (
    pytest.param((128, 768, 2048), False, jnp.bfloat16, id="experts-gram"),
    pytest.param((128, 768, 768), True, jnp.float16, id="experts-polynomial"),
    pytest.param((1, 1024, 4096), False, jnp.float16, id="single-tiles"),
    pytest.param((3, 320, 192), False, jnp.bfloat16, id="half-tiles"),
)


@pytest.mark.parametrize("shape, has_addend, dtype", LOWERED)
def test_tuned_kernels_lower_for_cuda(shape, has_addend, dtype):
    x = jax.ShapeDtypeStruct(shape, dtype)
    addend = jax.ShapeDtypeStruct((*shape[:2], shape[1]), dtype) if has_addend else None
    run = jax.jit(functools.partial(dispatch.matmul, **FACTORS))
    text = run.trace(x, x, addend).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("custom_call @mosaic_gpu") == 1
