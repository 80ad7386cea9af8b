"""Kernels under vmap and shard_map: a mapped axis joins the batch, outputs vary like inputs."""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels import dtypes, manual_axes


def over_batch(function, *args):
    """Calls function(*args); vmap merges the new axis into B, so kernels see one batch axis."""

    @jax.custom_batching.custom_vmap
    def call(*args):
        out = dtypes.in_32_bits(function)(*args)
        return jax.tree.map(functools.partial(manual_axes.vary_like, args[0]), out)

    @call.def_vmap
    def _(axis_size, batched, *args):
        def merge(x, is_batched):
            x = x if is_batched else jnp.broadcast_to(x, (axis_size, *x.shape))
            return x.reshape(-1, *x.shape[2:])

        def split(x):
            return x.reshape(axis_size, -1, *x.shape[1:])

        merged = [jax.tree.map(merge, x, b) for x, b in zip(args, batched, strict=True)]
        out = jax.tree.map(split, over_batch(function, *merged))
        return out, jax.tree.map(lambda _: True, out)

    return call(*args)


def shape_varying_like(x, shape, dtype) -> jax.ShapeDtypeStruct:
    """The shape of an output, for pallas_call, that varies over the same mesh axes as x."""
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(x).manual_axis_type)
