"""Long stacks of matrices in chunks, so that an iteration's temporaries do not grow with the model.

An expert layer of a large model is thousands of matrices in one leaf. Iterated at once, they take
several more arrays of that size; in chunks, those of one chunk.
"""

import math
from collections.abc import Callable

import jax

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
    least = min(num_matrices, -(-num_bytes // CHUNK_BYTES))
    if least <= 1 or _is_partitioned_by_compiler(stack):
        return fn(stack)
    counts = range(least, 2 * least + 1)
    even = (num_matrices // count for count in counts if num_matrices % count == 0)
    size = next(even, -(-num_matrices // least))

    def replace(flat, start, size):
        # Offsets this plain let XLA read and write the slices where they are, without copies.
        chunk = jax.lax.dynamic_slice_in_dim(flat, start, size)
        return jax.lax.dynamic_update_slice_in_dim(flat, fn(chunk), start, 0)

    num_whole, rest = divmod(num_matrices, size)
    flat = stack.reshape(num_matrices, rows, cols)
    flat = jax.lax.fori_loop(0, num_whole, lambda i, flat: replace(flat, i * size, size), flat)
    if rest:
        flat = replace(flat, num_whole * size, rest)
    return flat.reshape(stack.shape)


def _is_partitioned_by_compiler(x: jax.Array) -> bool:
    mesh = jax.typeof(x).sharding.mesh
    kinds = zip(mesh.axis_types, mesh.axis_sizes, strict=True)
    return any(size > 1 and kind != jax.sharding.AxisType.Manual for kind, size in kinds)
