"""Manual mesh axes, on which the arguments of a custom derivative must agree inside shard_map."""

from typing import Any

import jax


def align(*arrays) -> tuple[Any, ...]:
    """Marks arrays (None passes) as varying over every manual axis over which any of them varies.

    A custom VJP rule must return each gradient with its argument's axes. Aligned arguments all
    have the same axes, and JAX sums the gradient of a replicated array where that array enters.
    """
    varying = [_varying(x) for x in arrays]
    wanted = frozenset().union(*varying)
    return tuple(
        x if x is None or axes == wanted else jax.lax.pcast(x, tuple(wanted - axes), to="varying")
        for x, axes in zip(arrays, varying, strict=True)
    )


def vary_like(like, x):
    """Marks a kernel's output, which forgets its mesh axes, as varying like its input."""
    missing = _varying(like) - _varying(x)
    return jax.lax.pcast(x, tuple(missing), to="varying") if missing else x


def is_partitioned_by_compiler() -> bool:
    """Whether arrays may be spread over devices here, where kernels would gather them."""
    mesh = jax.sharding.get_abstract_mesh()
    manual = jax.sharding.AxisType.Manual
    kinds = zip(mesh.axis_types, mesh.axis_sizes, strict=True)
    return any(size > 1 and kind != manual for kind, size in kinds)


def _varying(x) -> frozenset:
    return frozenset() if x is None else jax.typeof(x).manual_axis_type.varying
