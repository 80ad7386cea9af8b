"""Which products of the model are in FP8 (docs/precision.md): those that go through `einsum` here.

Projections of attention, dense and shared MLPs do; routed experts go through
`pallas_kernels.moe_mlp`. Embedding, head, router, norms and what softmax sees stay as they are.
"""

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from kanana_jax.config import ExecutionConfig
from pallas_kernels import quantize
from pallas_kernels.quantize.dot import quantized_dot

type Einsum = Callable[[str, Array, Array], Array]


def einsum(execution: ExecutionConfig) -> Einsum:
    """The function that multiplies activations by a matrix: jnp.einsum, or one with FP8 operands.

    With FP8, the spec contracts the last axes of x with the first or the last ones of w.
    """
    recipe = quantize.recipe(execution.precision)
    if recipe is None or not recipe.has_dense_products:
        return jnp.einsum
    return functools.partial(_einsum, recipe)


def _einsum(recipe: quantize.Recipe, spec: str, x: Array, w: Array) -> Array:
    operands, out = spec.split("->")
    of_x, of_w = operands.split(",")
    contracted = "".join(axis for axis in of_x if axis not in out)
    kept = of_w.replace(contracted, "")
    assert of_x.endswith(contracted) and of_x.replace(contracted, kept) == out
    is_last = of_w.endswith(contracted)
    assert of_w == (kept + contracted if is_last else contracted + kept)
    sizes = dict(zip(of_w, w.shape, strict=True))
    num_in, num_out = (math.prod(sizes[axis] for axis in axes) for axes in (contracted, kept))
    lead = x.shape[: x.ndim - len(contracted)]
    w = w.reshape((num_out, num_in) if is_last else (num_in, num_out))
    y = quantized_dot(x.reshape(*lead, num_in), w, recipe, transpose_w=is_last)
    return y.reshape(*lead, *(sizes[axis] for axis in kept))
