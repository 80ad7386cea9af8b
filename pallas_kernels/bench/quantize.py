"""Quantisation next to a copy of as many bytes: an array is read once, its values written once.

"x copy" is the share of the copy's bandwidth. Numbers are bfloat16.
"""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels.bench import timing
from pallas_kernels.quantize import cases, quantize


def rows(case: cases.Case) -> list[timing.Row]:
    """Every implementation, and a copy that reads and writes as many bytes as they must."""
    x = jnp.asarray(cases.make_inputs(case)[0], jnp.bfloat16)
    # Reads 1.5 bytes per number and writes 1.5, together 3: as many as reading 2 and writing 1.
    words = jax.lax.bitcast_convert_type(x.reshape(-1, 2), jnp.int32)
    half = words[: words.size * 3 // 4]
    runs = [("copy", lambda half: half + 1, half)]
    runs += [
        (f"ours ({name})", functools.partial(_quantize, case, name), x)
        for name in (("mosaic_gpu", "xla") if jax.default_backend() == "gpu" else ("xla",))
    ]
    found = []
    for name, function, array in runs:
        run = functools.partial(jax.jit(function), array)
        row = timing.attempt(case.name, "quantize", name, None, run, jax.block_until_ready)
        found.append(row)
    return found


def _quantize(case, implementation, x):
    return quantize(x, case.block, implementation=implementation)
