"""Work on one device's part, where kernels run: the compiler cannot split what it cannot see into.

Every helper is the identity where its mesh axes have one device, or where no mesh is set.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kanana_jax.parallel import rules
from pallas_kernels import maxima

Axes = tuple[str, ...]


def on_parts(fn: Callable, arrays: tuple, in_axes: tuple[Axes, ...], out_axes: Any) -> Any:
    """Calls fn(*arrays) on each device's part of the arrays, whose dimensions the axes name.

    `out_axes` is a tuple of names for one output, or a list of such for several. The mesh is the
    one set by `jax.set_mesh`.
    """
    if is_alone():
        return fn(*arrays)
    is_several = isinstance(out_axes, list)
    out_specs = [rules.partition_spec(axes) for axes in (out_axes if is_several else [out_axes])]
    in_specs = tuple(rules.partition_spec(axes) for axes in in_axes)
    mapped = jax.shard_map(
        fn, in_specs=in_specs, out_specs=tuple(out_specs) if is_several else out_specs[0]
    )
    return mapped(*arrays)


def constrain(x: jax.Array, axes: Axes) -> jax.Array:
    """Tells the compiler how an activation is spread, so that it moves weights instead."""
    if is_alone():
        return x
    return jax.lax.with_sharding_constraint(x, rules.partition_spec(axes))


def is_alone() -> bool:
    """Whether the program runs on one device."""
    return jax.sharding.get_abstract_mesh().size <= 1


def axis_size(axis: str) -> int:
    return dict(jax.sharding.get_abstract_mesh().shape).get(axis, 1)


def axis_index(axis: str) -> jax.Array | int:
    return jax.lax.axis_index(axis) if axis_size(axis) > 1 else 0


def platform() -> str:
    """The platform of the program: that of the mesh's devices, else the default backend."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def gather(x: jax.Array, axis: str, dim: int) -> jax.Array:
    """Joins the parts along `dim`; the gradient is summed and scattered back."""
    return jax.lax.all_gather(x, axis, axis=dim, tiled=True) if axis_size(axis) > 1 else x


def gather_weight(weight: jax.Array, dim: int, like: jax.Array) -> jax.Array:
    """Joins along `dim` the fsdp parts of a weight that meets `like`.

    Its gradient is reduced and scattered over fsdp first, and then summed over the other axes,
    which takes fewer bytes by a factor of the fsdp size.
    """
    missing = _varying(like) - _varying(weight) - {"fsdp"}
    if missing:
        weight = jax.lax.pcast(weight, tuple(sorted(missing)), to="varying")
    return gather(weight, "fsdp", dim)


def gather_past(x: jax.Array, axis: str, dim: int) -> tuple[jax.Array, jax.Array | int]:
    """Joins the parts along `dim`, rolled so that this device's own part comes last.

    Also returns how many of the first entries then belong to the parts after its own.
    """
    num_later = (axis_size(axis) - 1 - axis_index(axis)) * x.shape[dim]
    if axis_size(axis) == 1:
        return x, 0
    return jnp.roll(gather(x, axis, dim), num_later, axis=dim), num_later


def sum_scatter(x: jax.Array, axis: str, dim: int) -> jax.Array:
    """Adds over `axis` and leaves each device its part along `dim`: the reverse of `gather`."""
    if axis_size(axis) == 1:
        return x
    return jax.lax.psum_scatter(x, axis, scatter_dimension=dim, tiled=True)


def vary(x: jax.Array, axis: str) -> jax.Array:
    """Marks what all devices of `axis` share as each one's own.

    Its gradient is summed over `axis` here, after the backward pass of all that comes later.
    """
    if axis_size(axis) == 1 or axis in _varying(x):
        return x
    return jax.lax.pcast(x, axis, to="varying")


def zeros(shape: tuple[int, ...], like: jax.Array) -> jax.Array:
    """Zeros of the dtype of `like`, each device's own over the same axes as `like`."""
    return jax.lax.pcast(jnp.zeros(shape, like.dtype), tuple(sorted(_varying(like))), to="varying")


def add_up(x: jax.Array, axis: str) -> jax.Array:
    return jax.lax.psum(x, axis) if axis in _manual_axes() else x


def add_all_up(x: jax.Array) -> jax.Array:
    """The sum over all devices that have their own `x`."""
    axes = tuple(sorted(_varying(x)))
    return jax.lax.psum(x, axes) if axes else x


def largest(x: jax.Array, axis: str) -> jax.Array:
    """The maximum over `axis`, NaN where one of them is, without gradient."""
    x = jax.lax.stop_gradient(x)
    if axis not in _manual_axes():
        return x
    # The collective of CPUs loses NaN.
    return maxima.joined(jax.lax.pmax(maxima.split(x), axis))


def _manual_axes() -> tuple[str, ...]:
    return jax.sharding.get_abstract_mesh().manual_axes


def _varying(x: jax.Array) -> frozenset[str]:
    return jax.typeof(x).manual_axis_type.varying
