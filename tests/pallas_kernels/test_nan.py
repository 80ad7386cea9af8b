"""A NaN among the visible scores of a head is its maximum; what no query sees does not count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import maxima
from pallas_kernels.flash_attention import reference, xla
from pallas_kernels.flash_attention.gpu import backward as gpu_backward
from pallas_kernels.flash_attention.gpu import dispatch as on_gpu
from pallas_kernels.flash_attention.gpu import forward as gpu_forward
from pallas_kernels.flash_attention.tpu import dispatch as on_tpu

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
_GPU = on_gpu.Config(gpu_forward.Config(block_kv=64), gpu_backward.Config(is_fused=False))
_TPU = on_tpu.Config(128, 128, forward_keys=256, backward_keys=256, vmem_bytes=16 << 20)
# Lengths below and above 32 numbers, where CPUs begin to lose NaN; one tile and several.
IMPLEMENTATIONS = {
    "reference": (reference.attention, (8, 200)),
    "xla": (xla.attention, (8, 200, 700)),
    "mosaic_tpu": (functools.partial(on_tpu.attention, config=_TPU, interpret=True), (200,)),
    "mosaic_gpu": (functools.partial(on_gpu.attention, config=_GPU, interpret=True), (128,)),
}
CASES = [
    pytest.param((name, length), marks=pytest.mark.long if "mosaic" in name else ())
    for name, (_, lengths) in IMPLEMENTATIONS.items()
    for length in lengths
]


@pytest.fixture(params=CASES, ids=lambda x: f"{x[0]}-{x[1]}")
def of_length(request):
    """(max_logits of q and k, the length), with two heads and two documents in the row."""
    name, length = request.param
    attention = IMPLEMENTATIONS[name][0]
    ids = jnp.asarray(np.arange(length)[None] >= length // 2, jnp.int32)
    v = jnp.ones((1, length, 2, 64), jnp.bfloat16)

    def max_logits(q, k):
        return attention(q, k, v, ids, ids, causal=True, scale=0.1)[1]

    return jit(max_logits), length


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # interpreted in numpy
def test_max_logits_keep_nan_of_visible_scores_only(of_length):
    max_logits, length = of_length
    rng = np.random.default_rng(0)
    q, k = jnp.asarray(rng.standard_normal((2, 1, length, 2, 64)), jnp.bfloat16)
    plain = max_logits(q, k)
    assert np.isfinite(plain).all()
    for place in (0, length // 2, length - 1):
        poisoned = max_logits(q.at[0, place, 0, 3].set(jnp.nan), k)
        np.testing.assert_array_equal(poisoned, [[np.nan, plain[0, 1]]])
        poisoned = max_logits(q, k.at[0, place, 1, 3].set(jnp.nan))
        np.testing.assert_array_equal(poisoned, [[plain[0, 0], np.nan]])
    infinite = max_logits(q.at[0, 5, 0].set(jnp.inf), k.at[0, 5, 0].set(1.0))
    assert not np.isfinite(infinite[0, 0]) and infinite[0, 1] == plain[0, 1]


@pytest.mark.parametrize("size", [1, 31, 32, 33, 1000])
def test_maxima_keep_nan_wherever_it_is(size):
    x = np.random.default_rng(0).standard_normal((3, size)).astype(np.float32)
    x[1, size // 2] = np.nan
    x[2] = -np.inf
    np.testing.assert_array_equal(jax.jit(maxima.keep_nan, static_argnums=1)(x, 1), x.max(axis=1))
    assert maxima.keep_nan(jnp.zeros((0,)), 0) == -np.inf


def test_maxima_keep_nan_of_another_device():
    """The collective maximum of CPUs loses it."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x = np.zeros((8, 3), np.float32)
    x[5, 1] = np.nan
    found = jax.jit(maxima.keep_nan, static_argnums=1)(jax.device_put(x, sharding), 0)
    np.testing.assert_array_equal(found, [0.0, np.nan, 0.0])
