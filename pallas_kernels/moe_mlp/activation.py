"""SwiGLU of a gate and an up projection; with a clamp, the one of DeepSeek-V4 (arXiv:2606.19348).

    swiglu(g, u) = silu(g) u         with a clamp c, of  min(g, c)  and  min(max(u, -c), c)

A clipped input has no gradient. Left of 0 silu is below 0.28 in magnitude, so the gate needs no
lower bound: the activation is at most c^2.
"""

import jax
import jax.numpy as jnp


def swiglu(gate, up, clamp: float | None = None):
    gate, up = clip(gate, up, clamp)
    return jax.nn.silu(gate) * up


def clip(gate, up, clamp: float | None):
    """Both inputs clipped, in their dtypes."""
    if clamp is None:
        return gate, up
    return jnp.minimum(gate, clamp), jnp.minimum(jnp.maximum(up, -clamp), clamp)


def keep_unclipped(dgate, dup, gate, up, clamp: float | None):
    """The gradients of the inputs, given those of `clip`'s results."""
    if clamp is None:
        return dgate, dup
    return jnp.where(gate <= clamp, dgate, 0), jnp.where(jnp.abs(up) <= clamp, dup, 0)
