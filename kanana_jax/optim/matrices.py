"""Leaves as stacks of matrices, and back.

A leaf becomes one stack (*batch, M, N) per part of its `MatrixSpec`. Batch axes stay separate and
the matrix keeps its order in memory (N inputs and M outputs, where the spec's cols come first), so
that the common layouts need no copy and a sharded batch axis stays sharded.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from kanana_jax.optim.specs import MatrixSpec, viewed_shape


def is_transposed(spec: MatrixSpec) -> bool:
    """Whether the stacks of this spec are (*batch, outputs, inputs)."""
    return spec.cols[0] < spec.rows[0]


def split_matrices(x: jax.Array, spec: MatrixSpec) -> tuple[jax.Array, ...]:
    """Return one (*batch, M, N) stack per part."""
    shape = _checked_shape(x.shape, spec)
    x = x.reshape(shape)
    return tuple(_to_stack(part, spec) for part in _parts(x, spec))


def merge_matrices(
    stacks: tuple[jax.Array, ...], spec: MatrixSpec, shape: tuple[int, ...]
) -> jax.Array:
    """Undo `split_matrices` for a leaf of the given shape."""
    viewed = _checked_shape(shape, spec)
    order = _axis_order(spec)
    parts = []
    for stack, part_shape in zip(stacks, _part_shapes(viewed, spec), strict=True):
        permuted = stack.reshape([part_shape[axis] for axis in order])
        parts.append(permuted.transpose([order.index(axis) for axis in range(len(order))]))
    whole = parts[0] if spec.split_axis is None else jnp.concatenate(parts, spec.split_axis)
    return whole.reshape(shape)


def map_matrices(fn: Callable[[jax.Array], jax.Array], x: jax.Array, spec: MatrixSpec) -> jax.Array:
    """Apply a function of (*batch, M, N) stacks to each part of a leaf."""
    return merge_matrices(tuple(fn(stack) for stack in split_matrices(x, spec)), spec, x.shape)


def fans(shape: tuple[int, ...], spec: MatrixSpec) -> tuple[tuple[int, int], ...]:
    """Return (fan_in, fan_out) of each part's matrices."""
    return tuple(
        (math.prod(part[a] for a in spec.rows), math.prod(part[a] for a in spec.cols))
        for part in _part_shapes(_checked_shape(shape, spec), spec)
    )


def _axis_order(spec: MatrixSpec) -> tuple[int, ...]:
    matrix = (*spec.cols, *spec.rows) if is_transposed(spec) else (*spec.rows, *spec.cols)
    return (*spec.batch, *matrix)


def _to_stack(part: jax.Array, spec: MatrixSpec) -> jax.Array:
    order, num_batch = _axis_order(spec), len(spec.batch)
    num_first = len(spec.cols if is_transposed(spec) else spec.rows)
    sizes = [part.shape[axis] for axis in order]
    first = math.prod(sizes[num_batch : num_batch + num_first])
    second = math.prod(sizes[num_batch + num_first :])
    return part.transpose(order).reshape(*sizes[:num_batch], first, second)


def _parts(x: jax.Array, spec: MatrixSpec) -> list[jax.Array]:
    if spec.split_axis is None:
        return [x]
    starts = [sum(spec.split_sizes[:i]) for i in range(1, len(spec.split_sizes))]
    return jnp.split(x, starts, spec.split_axis)


def _part_shapes(shape: tuple[int, ...], spec: MatrixSpec) -> list[tuple[int, ...]]:
    if spec.split_axis is None:
        return [shape]
    axis = spec.split_axis % len(shape)
    return [(*shape[:axis], size, *shape[axis + 1 :]) for size in spec.split_sizes]


def _checked_shape(shape: tuple[int, ...], spec: MatrixSpec) -> tuple[int, ...]:
    viewed = viewed_shape(shape, spec)
    if len(viewed) != spec.ndim:
        raise ValueError(
            f"{spec} names {spec.ndim} axes, the leaf has shape {viewed}; list every other axis in "
            "batch."
        )
    if spec.split_axis is not None and sum(spec.split_sizes) != viewed[spec.split_axis]:
        raise ValueError(
            f"split_sizes {spec.split_sizes} must add up to axis {spec.split_axis} of {viewed}."
        )
    return viewed
