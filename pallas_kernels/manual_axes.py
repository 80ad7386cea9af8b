"""Manual mesh axes: what the arguments of a custom derivative must agree on inside shard_map."""

from typing import Any

import jax


def align(*arrays) -> tuple[Any, ...]:
    """Marks arrays (None passes) as varying over every manual axis that any of them varies on.

    A custom VJP rule must return each gradient with its argument's axes. Aligned arguments all
    have the same, and JAX sums the gradient of what was replicated where it enters.
    """
    varying = [_varying(x) for x in arrays]
    wanted = frozenset().union(*varying)
    return tuple(
        x if x is None or axes == wanted else jax.lax.pcast(x, tuple(wanted - axes), to="varying")
        for x, axes in zip(arrays, varying, strict=True)
    )


def _varying(x) -> frozenset:
    return frozenset() if x is None else jax.typeof(x).manual_axis_type.varying
