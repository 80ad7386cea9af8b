"""Long stacks of matrices in chunks, so that an iteration's temporaries do not grow with the model.

An expert layer of a large model is thousands of matrices in one leaf. Iterated at once, they need
several temporaries of that size; in chunks, only those of one chunk.
"""

import math
from collections.abc import Callable

import jax

# The iteration keeps X, its successor, R and P: four times a chunk at most, where M = N. XLA copies
# each chunk out and in on a GPU (a tenth of the iteration's time at 768 x 2048): few are best.
CHUNK_BYTES = 1 << 32


def in_chunks(
    fn: Callable[[jax.Array], jax.Array], stack: jax.Array, chunk_bytes: int
) -> jax.Array:
    """Return fn(stack) for a function of (*batch, M, N) stacks that treats each matrix alone.

    `fn` returns a stack of the same shape and dtype.

    `fn` sees one batch axis. A stack above `chunk_bytes` goes through a loop that overwrites it
    chunk by chunk. A stack that the compiler may have spread over devices goes whole and
    unreshaped: slicing a sharded axis would gather it.
    """
    *batch, rows, cols = stack.shape
    num_matrices = math.prod(batch)
    num_bytes = num_matrices * rows * cols * stack.dtype.itemsize
    least = min(num_matrices, -(-num_bytes // chunk_bytes))
    if num_bytes == 0 or _is_partitioned_by_compiler(stack):
        return fn(stack)
    flat = stack.reshape(num_matrices, rows, cols)
    if least == 1:
        return fn(flat).reshape(stack.shape)
    counts = range(least, 2 * least + 1)
    even = (num_matrices // count for count in counts if num_matrices % count == 0)
    size = next(even, -(-num_matrices // least))

    def replace(flat, start, size):
        # Such plain offsets let XLA read and write the slices in place, without copies.
        chunk = jax.lax.dynamic_slice_in_dim(flat, start, size)
        return jax.lax.dynamic_update_slice_in_dim(flat, fn(chunk), start, 0)

    num_whole, rest = divmod(num_matrices, size)
    flat = jax.lax.fori_loop(0, num_whole, lambda i, flat: replace(flat, i * size, size), flat)
    if rest:
        flat = replace(flat, num_whole * size, rest)
    return flat.reshape(stack.shape)


def _is_partitioned_by_compiler(x: jax.Array) -> bool:
    mesh = jax.typeof(x).sharding.mesh
    kinds = zip(mesh.axis_types, mesh.axis_sizes, strict=True)
    return any(size > 1 and kind != jax.sharding.AxisType.Manual for kind, size in kinds)
