"""Long stacks of matrices in chunks, so that an iteration's temporaries do not grow with the model.

An expert layer of a large model is thousands of matrices in one leaf. Iterated at once, they take
several more arrays of that size; in chunks, those of one chunk.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

# Of one chunk. The iteration keeps X, its successor, R and P: 2 GiB at most, where M = N. In 16
# bits that is 170 matrices of 768 x 2048, which keep an H100 busy for milliseconds.
CHUNK_BYTES = 1 << 29


def in_chunks(fn: Callable[[jax.Array], jax.Array], stack: jax.Array) -> jax.Array:
    """Return fn(stack) for a function of (*batch, M, N) stacks that treats each matrix alone.

    `fn` returns a stack of the same shape and dtype.

    A stack above `CHUNK_BYTES` goes through a loop that overwrites it chunk by chunk. One that the
    compiler may have spread over devices goes at once: to slice a sharded axis would gather it.
    """
    *batch, rows, cols = stack.shape
    num_matrices = math.prod(batch)
    num_bytes = num_matrices * rows * cols * stack.dtype.itemsize
    num_chunks = min(num_matrices, -(-num_bytes // CHUNK_BYTES))
    if num_chunks <= 1 or _is_partitioned_by_compiler(stack):
        return fn(stack)
    size = -(-num_matrices // num_chunks)

    def replace(i, flat):
        # The last chunk reaches back over matrices that are done, and leaves those as they are.
        start = jnp.minimum(i * size, num_matrices - size)
        chunk = jax.lax.dynamic_slice_in_dim(flat, start, size)
        is_done = start + jnp.arange(size) < i * size
        new = jnp.where(is_done[:, None, None], chunk, fn(chunk))
        return jax.lax.dynamic_update_slice_in_dim(flat, new, start, 0)

    flat = stack.reshape(num_matrices, rows, cols)
    return jax.lax.fori_loop(0, num_chunks, replace, flat).reshape(stack.shape)


def _is_partitioned_by_compiler(x: jax.Array) -> bool:
    mesh = jax.typeof(x).sharding.mesh
    kinds = zip(mesh.axis_types, mesh.axis_sizes, strict=True)
    return any(size > 1 and kind != jax.sharding.AxisType.Manual for kind, size in kinds)
