"""Where polar factors are computed when weights are sharded over a mesh.

A layout is a function layout(polar_fn, stacks, specs, paths) -> factors. It receives one tuple of
(*batch, M, N) stacks per leaf (`matrices.split_matrices`) and returns the same. `in_place` leaves
everything to the compiler: free for stacks sharded over batch axes (layers, experts), but a matrix
sharded over its rows or columns is gathered in every product. `spread` brings whole matrices to
single devices first: one all-to-all in and one out for all matrices of a shape. Then each device
works on its own matrices, so kernels run and long stacks go in chunks there; `in_place` can do
neither on a mesh of several devices.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from kanana_jax.optim import matrices, trees
from kanana_jax.optim.specs import MatrixSpec

PolarFn = Callable[[jax.Array], jax.Array]
Stacks = tuple[jax.Array, ...]
Layout = Callable[[PolarFn, list[Stacks], list[MatrixSpec], list[str]], list[Stacks]]


def in_place(
    polar_fn: PolarFn, stacks: list[Stacks], specs: list[MatrixSpec], paths: list[str]
) -> list[Stacks]:
    """Compute each factor where its matrix lies."""
    del specs, paths
    return [tuple(polar_fn(stack) for stack in parts) for parts in stacks]


def spread(
    mesh: Mesh | AbstractMesh, partition_specs: Any, *, share_over: Sequence[str] = ()
) -> Layout:
    """Return a layout that spreads sharded matrices over the devices that hold their pieces.

    `partition_specs` is a tree like the parameters whose leaves are `PartitionSpec`s, in the axes
    of the leaf's `MatrixSpec` (its view). Stacks whose matrix axes are not sharded stay where they
    are, with no communication. `share_over` names mesh axes over which weights are replicated and
    the work is to be divided too, at the price of one all-gather per shape.
    """
    by_path = trees.leaves_by_path(partition_specs)

    def layout(polar_fn, stacks, specs, paths):
        missing = [path for path in paths if path not in by_path]
        if missing:
            raise ValueError(f"spread needs a PartitionSpec for every matrix; missing {missing}.")
        flat, where = [], []
        for leaf, (parts, spec, path) in enumerate(zip(stacks, specs, paths, strict=True)):
            partition = _of_stack(by_path[path], spec, path)
            flat += [(stack, partition) for stack in parts]
            where += [leaf] * len(parts)
        buckets: dict[tuple, list[int]] = {}
        for i, (stack, partition) in enumerate(flat):
            buckets.setdefault((stack.shape[-2:], partition[-2:], stack.dtype), []).append(i)
        factors: list = [None] * len(flat)
        for members in buckets.values():
            group = [flat[i] for i in members]
            for i, factor in zip(members, _factor(polar_fn, group, mesh, share_over), strict=True):
                factors[i] = factor
        return [
            tuple(f for f, owner in zip(factors, where, strict=True) if owner == leaf)
            for leaf in range(len(stacks))
        ]

    return layout


def _factor(
    polar_fn, group, mesh: Mesh | AbstractMesh, share_over: Sequence[str]
) -> list[jax.Array]:
    """Compute the factors of stacks whose matrices have one shape and one sharding."""
    row_axes, col_axes = (_names(entry) for entry in group[0][1][-2:])
    partitions = tuple(partition for _, partition in group)

    def alone(*blocks):
        return tuple(polar_fn(block) for block in blocks)

    def together(*blocks):
        flat = [block.reshape(-1, *block.shape[-2:]) for block in blocks]
        sizes = [block.shape[0] for block in flat]
        pieces = jnp.concatenate(flat)
        done = _exchange(polar_fn, pieces, mesh, row_axes, col_axes, tuple(share_over))
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
        return tuple(
            part.reshape(block.shape)
            for part, block in zip(jnp.split(done, ends), blocks, strict=True)
        )

    on_device = together if row_axes or col_axes or share_over else alone
    mapped = jax.shard_map(
        on_device, mesh=mesh, in_specs=partitions, out_specs=partitions, check_vma=False
    )
    return list(mapped(*(stack for stack, _ in group)))


def _exchange(
    polar_fn, pieces, mesh: Mesh | AbstractMesh, row_axes, col_axes, share_over
) -> jax.Array:
    """Swap pieces of all matrices for some whole matrices, factor these, and swap back."""
    over = (*row_axes, *col_axes)
    num_rows, num_cols, num_shares = (_size(mesh, a) for a in (row_axes, col_axes, share_over))
    num_devices = num_rows * num_cols
    count = pieces.shape[0]
    # Zero matrices fill up the last share; their factors are zero.
    padding = -count % (num_devices * num_shares)
    pieces = jnp.pad(pieces, ((0, padding), (0, 0), (0, 0)))
    if share_over:
        share = pieces.shape[0] // num_shares
        pieces = jax.lax.dynamic_slice_in_dim(pieces, jax.lax.axis_index(share_over) * share, share)
    num_here, rows, cols = pieces.shape[0] // num_devices, *pieces.shape[1:]
    blocks = _all_to_all(pieces.reshape(num_rows, num_cols, num_here, rows, cols), over)
    whole = blocks.transpose(2, 0, 3, 1, 4).reshape(num_here, num_rows * rows, num_cols * cols)
    whole = polar_fn(whole).reshape(num_here, num_rows, rows, num_cols, cols)
    pieces = _all_to_all(whole.transpose(1, 3, 0, 2, 4), over).reshape(-1, rows, cols)
    if share_over:
        pieces = jax.lax.all_gather(pieces, share_over, tiled=True)
    return pieces[:count]


def _all_to_all(blocks: jax.Array, over: tuple[str, ...]) -> jax.Array:
    """Send block [r, c] to the device at row r and column c; get back the sender's indices."""
    if not over:
        return blocks
    flat = blocks.reshape(-1, *blocks.shape[2:])
    return jax.lax.all_to_all(flat, over, 0, 0, tiled=True).reshape(blocks.shape)


def _of_stack(partition: PartitionSpec, spec: MatrixSpec, path: str) -> PartitionSpec:
    """Translate the partition of a leaf to that of its stacks."""
    entries = [*partition, *[None] * (spec.ndim - len(partition))]
    if spec.split_axis is not None and _names(entries[spec.split_axis]):
        raise ValueError(
            f"at {path!r}: axis {spec.split_axis} is cut into parts {spec.split_sizes}, so spread "
            f"cannot have it sharded over {entries[spec.split_axis]!r}; shard another axis."
        )

    def merged(axes: tuple[int, ...]):
        if any(_names(entries[axis]) for axis in axes[1:]):
            raise ValueError(
                f"at {path!r}: of the axes {axes} that form one matrix side only the first may be "
                f"sharded, got {[entries[a] for a in axes]}; list the sharded axis first."
            )
        return entries[axes[0]]

    sides = (spec.cols, spec.rows) if matrices.is_transposed(spec) else (spec.rows, spec.cols)
    return PartitionSpec(*(entries[axis] for axis in spec.batch), *map(merged, sides))


def _names(entry) -> tuple[str, ...]:
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)


def _size(mesh: Mesh | AbstractMesh, axes: Sequence[str]) -> int:
    return math.prod(mesh.shape[axis] for axis in axes)
