"""Moves blocks of rows between the devices of a mesh axis, as long for each pair as the data says.

Device i sends its first size[i, 0] rows to device 0, the next size[i, 1] to device 1, and so on; a
device has what it received in the order of the senders. With the sizes transposed the same exchange
brings every row back to where it was.

TPUs and GPUs move just these rows (`jax.lax.ragged_all_to_all`). XLA has no such collective for
CPUs; there every block travels filled up to the largest that may occur, which gives the same result
for the traffic of an all-gather.

Letters: M rows here, N rows to make room for, D width, X devices of the axis, P rows of a block.
"""

import jax
import jax.numpy as jnp

from kanana_jax.parallel import local


def exchange(
    rows_MD: jax.Array, size_XX: jax.Array, axis: str, *, num_rows: int, max_block: int
) -> jax.Array:
    """Sends size[i, j] rows from i to j, within `shard_map`; returns (num_rows, D), 0 where unused.

    Rows of one sender come before those of later ones. `num_rows` bounds what a device receives and
    `max_block` a single size; both are the same everywhere, as are the sizes. Not differentiable:
    the transpose is the exchange of transposed sizes.
    """
    me = jax.lax.axis_index(axis)
    sent_X, received_X = size_XX[me], size_XX[:, me]
    begin_X = jnp.cumsum(sent_X) - sent_X
    # Where the rows of each sender begin on each receiver.
    place_XX = jnp.cumsum(size_XX, axis=0) - size_XX
    room_ND = local.zeros((num_rows, *rows_MD.shape[1:]), like=rows_MD)
    if local.platform() != "cpu":
        # XLA:TPU would move its layout for the exchange into the sums that make the rows, and keep
        # these in float32.
        rows_MD = jax.lax.optimization_barrier(rows_MD)
        return jax.lax.ragged_all_to_all(
            rows_MD, room_ND, begin_X, sent_X, place_XX[me], received_X, axis_name=axis
        )
    block_P = jnp.arange(max_block)
    sent_XPD = rows_MD.at[begin_X[:, None] + block_P].get(mode="clip")
    received_XPD = jax.lax.all_to_all(sent_XPD, axis, split_axis=0, concat_axis=0)
    is_row_XP = block_P < received_X[:, None]
    place_XP = jnp.where(is_row_XP, place_XX[:, me][:, None] + block_P, num_rows)
    return room_ND.at[place_XP].set(received_XPD, mode="drop")
