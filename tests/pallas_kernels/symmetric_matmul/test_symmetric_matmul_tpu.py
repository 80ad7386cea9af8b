"""The TPU kernel of symmetric products: interpreted on the CPU, and compiled ahead of time."""

import aot
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels.symmetric_matmul import reference
from pallas_kernels.symmetric_matmul.tpu import dispatch, kernel

FACTORS = dict(scale=0.5, addend_scale=-2.0, diagonal=4.0)
PLAIN = dict(scale=1.0, addend_scale=1.0, diagonal=0.0)


def polynomials(batch, size):
    """Three symmetric matrices that commute: R / 4, I - R / 4 and R."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, size, size)) / size**0.5
    gram = x @ x.swapaxes(1, 2) / 4
    return [jnp.asarray(y, jnp.bfloat16) for y in (gram, np.eye(size) - gram, 4 * gram)]


def inputs(kind):
    """(lhs, rhs, addend) of a product that takes one or three arrays into VMEM."""
    if kind == "commuting":
        return polynomials(1, 768)
    x = np.random.default_rng(0).standard_normal((2, 384, 128))
    lhs = jnp.asarray(x, jnp.bfloat16)
    return lhs, lhs, None


@pytest.mark.parametrize("kind", (pytest.param("gram", marks=pytest.mark.long), "commuting"))
def test_interpreted_kernel_agrees_is_symmetric_and_has_no_races(kind, capfd):
    arrays = inputs(kind)
    factors = PLAIN if kind == "gram" else FACTORS
    got = dispatch.matmul(*arrays, interpret=True, **factors)
    assert "RACE DETECTED" not in capfd.readouterr().out
    np.testing.assert_array_equal(got, got.mT)
    wide = [None if x is None else x.astype(jnp.float32) for x in arrays]
    want = reference.matmul(*wide, **factors)
    atol = float(jnp.finfo(jnp.bfloat16).eps) * np.abs(want).max()
    np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=0, atol=atol)


def test_an_array_given_twice_takes_vmem_once():
    x, y = jnp.zeros((2, 256, 256), jnp.bfloat16), jnp.ones((2, 256, 256), jnp.bfloat16)
    once, twice = (kernel.vmem_bytes(dispatch.distinct(*a)) for a in ((x, x, None), (x, y)))
    assert twice - once == 2 * 256 * 256 * 2  # two buffers


def public(*arrays):
    return pallas_kernels.symmetric_matmul(*arrays, implementation="mosaic_tpu", **FACTORS)


COMPILED = (
    ("experts-gram", [(128, 768, 2048)], ("v5p", "v6e")),
    ("experts-polynomial", [(128, 768, 768)], ("v5p", "v6e")),
    ("largest-for-v5p", [(4, 2048, 4096)], ("v5p", "v6e")),
    ("largest-for-v6e", [(4, 2048, 8192)], ("v6e",)),
    ("commuting", [(4, 1024, 1024)] * 2, ("v5p", "v6e")),
)


@pytest.mark.aot
@pytest.mark.parametrize(
    ("tpu", "shapes"),
    [
        pytest.param(tpu, shapes, id=f"{tpu}-{name}")
        for name, shapes, tpus in COMPILED
        for tpu in tpus
    ],
)
def test_compiles_for_a_tpu(tpu, shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    (used,) = aot.vmem_bytes(aot.compile_for(tpu, public, *arrays)).values()
    print(f"{tpu} {shapes}: {used / 2**20:.1f} MiB of VMEM")
    assert used <= kernel.vmem_bytes(arrays)


def test_tiles_divide_the_side_and_leave_a_half_to_skip():
    chosen = {size: kernel.choose_tile(size) for size in (128, 384, 512, 768, 2048)}
    assert chosen == {128: 128, 384: 128, 512: 256, 768: 256, 2048: 512}


@pytest.mark.aot
@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    (
        ((2, 200, 256), jnp.bfloat16, "multiples of 128"),
        ((2, 256, 256), jnp.float16, "bfloat16"),
        ((2, 2048, 8192), jnp.bfloat16, "bytes of VMEM"),
    ),
)
def test_on_a_tpu_it_says_why_not(shape, dtype, reason):
    with pytest.raises(NotImplementedError, match=reason):
        aot.compile_for("v5p", public, jax.ShapeDtypeStruct(shape, dtype))
