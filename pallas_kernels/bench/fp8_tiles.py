"""The FP8 product of a case in every tile that may be worth it, next to bfloat16.

Scales belong to blocks (1, 128) and (128, 128); "whole rows" have one for all of K, so that sums
stay in the tensor cores. A tile that does not compile says why. Errors are measured on one group's
rows, against the float32 product of the quantised arrays: they tell what the sums lose.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import pallas_kernels
from pallas_kernels.bench import grouped_matmul, timing
from pallas_kernels.grouped_matmul import cases
from pallas_kernels.grouped_matmul.gpu import block_scaled, dispatch
from pallas_kernels.quantize import ROW_BLOCK, SQUARE_BLOCK, Quantized, quantize

_Config = block_scaled.Config
BLOCKS = (
    _Config(),
    _Config(band=8),
    _Config(num_compute=2, tile_n=256),
)
WHOLE_ROWS = (_Config(num_compute=2, tile_n=256, part_n=256), _Config())
_CHECKED_ROWS = 256


def rows(case: cases.Case) -> list[timing.Row]:
    """The product of a case, with rows and matrices that are quantised already."""
    x, w_GKN, _, sizes = cases.make_inputs(case)
    x, w = (jnp.asarray(a, jnp.bfloat16) for a in (x, w_GKN.swapaxes(1, 2)))
    sizes = jnp.asarray(sizes)
    blocks = jax.jit(quantize)(x), jax.jit(quantize, static_argnums=1)(w, SQUARE_BLOCK)
    if reason := dispatch.why_not_quantized(*blocks, jax.default_backend()):
        return [timing.Row(case.name, "forward", "tiles", None, None, reason)]
    whole = _ones(*blocks)
    plain = functools.partial(pallas_kernels.grouped_matmul, transpose_rhs=True)
    runs: list[tuple[str, Callable, tuple]] = [("bf16", plain, (x, w, sizes))]
    for label, arrays, configs in (("", blocks, BLOCKS), ("whole rows ", whole, WHOLE_ROWS)):
        runs += [
            (label + _name(config), functools.partial(_product, config), (*arrays, sizes))
            for config in configs
            if case.out_width % config.tile_n == 0
        ]
    calls = timing.compiled([(function, inputs) for _, function, inputs in runs])
    exact = {0: _exact(blocks, sizes), 1: _exact(whole, sizes), 2: _exact((x, w), sizes)}
    found = []
    for (name, *_), call in zip(runs, calls, strict=True):
        reference = exact[2 if name == "bf16" else int(name.startswith("whole"))]
        found.append(_time(case, f"ours, {name}", call, reference))
    return found


def _product(config, x, w, sizes):
    return dispatch.matmul_quantized(
        x, w, sizes, transpose_rhs=True, out_dtype=jnp.bfloat16, config=config
    )


def _ones(x: Quantized, w: Quantized):
    """The values with scales of 1 for all of K: times do not depend on scales."""
    x_scales = jnp.ones((x.values.shape[0], 1), jnp.float32)
    w_scales = jnp.ones((*w.scales.shape[:2], 1), jnp.float32)
    return Quantized(x.values, x_scales, ROW_BLOCK), Quantized(w.values, w_scales, SQUARE_BLOCK)


def _time(case, name, run, exact):
    work = grouped_matmul.flops(case)
    row = timing.attempt(case.name, "forward", name, work, run, jax.block_until_ready)
    if row.ms is None:
        return row
    got = np.asarray(run()[: len(exact)], np.float64)
    return row._replace(error=float(np.linalg.norm(got - exact) / np.linalg.norm(exact)))


def _exact(arrays, sizes):
    """The first rows of the first group, multiplied in float32 on the device."""
    count = int(sizes[0])
    x, w = (_wide(array, index) for array, index in zip(arrays, (slice(0, count), 0), strict=True))
    x = x[:_CHECKED_ROWS]
    return np.asarray(jnp.matmul(x, w.T, precision="highest"), np.float64)


def _wide(array, index):
    if not isinstance(array, Quantized):
        return array[index].astype(jnp.float32)
    values, scales = array.values[index].astype(jnp.float32), array.scales[index]
    for axis in (0, 1):
        scales = jnp.repeat(scales, values.shape[axis] // scales.shape[axis], axis=axis)
    return values * scales


def _name(config):
    name = f"{config.tile_m} x {config.tile_n}"
    if config.part_n != config.tile_n:
        name += f" in {config.part_n}s"
    return f"{name}, {config.num_stages} stages, band {config.band}"
