"""The experts' matrices as FP8, made once for everything that a step does with them.

All micro-batches and both passes read them, also where backward recomputes a layer. They are the
numbers that each use would make, so a step does not change, and no state holds them. On a device
they need 1 byte for each of its experts' parameters, 2 where a kernel reads both orientations.

Scanned layers have one stack; others have an array each, so that no kernel needs a slice.
"""

import functools
from typing import Any

import jax

from kanana_jax.config import ExecutionConfig
from kanana_jax.model import layers, xla_hints
from kanana_jax.parallel import local
from pallas_kernels.moe_mlp.matrices import Matrices, has_matrices, quantize_experts

type OfLayers = Matrices | list[Matrices]

UP_AXES = ("experts", "gate_up", "mlp", "expert_embed")
DOWN_AXES = ("experts", "mlp", "expert_embed")
_TRANSPOSED_AXES = ("experts", "expert_embed", "mlp")


def are_made(execution: ExecutionConfig) -> bool:
    """Whether `once` makes any for a model with experts."""
    return has_matrices(execution.precision)


def once(params: dict[str, Any], execution: ExecutionConfig) -> OfLayers | None:
    """The matrices of all MoE layers; None where there are none, or the precision has none."""
    if "moe_layers" not in params or not are_made(execution):
        return None
    mlp = params["moe_layers"]["mlp"]
    weights = mlp["w_gate_up"], mlp["w_down"]
    of_layer = functools.partial(
        quantize_experts,
        dtype=layers.compute_dtype(execution),
        precision=execution.precision,
        implementation=execution.grouped_matmul_implementation,
    )
    shapes = jax.eval_shape(of_layer, *map(_of_device, weights, (2, 1)))
    num_layers, is_scanned = weights[0].shape[0], execution.scan_layers is not False

    def of_stack(*weights):
        if is_scanned:
            made = jax.lax.map(lambda of_one: of_layer(*of_one), weights)
        else:
            by_layer = zip(*map(xla_hints.unstack_layers, weights), strict=True)
            made = [of_layer(*of_one) for of_one in by_layer]
        return tuple(jax.tree.leaves(made))

    of_leaves = axes(shapes)
    of_leaves = [("layers", *one) for one in of_leaves] if is_scanned else of_leaves * num_layers
    in_axes = ("layers", *UP_AXES), ("layers", *DOWN_AXES)
    leaves = local.on_parts(of_stack, weights, in_axes, of_leaves)
    structure = jax.tree.structure(shapes if is_scanned else [shapes] * num_layers)
    return jax.tree.unflatten(structure, leaves)


def axes(matrices: Matrices | None) -> list[local.Axes]:
    """The logical axes of each leaf, of one layer. A device's columns of gate and up lie together,
    so what `tensor` splits has meaning on its device only.
    """
    found = []
    for matrix in matrices or ():
        both = (matrix.plain, DOWN_AXES), (matrix.transposed, _TRANSPOSED_AXES)
        found += [axes for one, axes in both for _ in jax.tree.leaves(one)]
    return found


def _of_device(stack, width_dim: int) -> jax.ShapeDtypeStruct:
    """One device's weights of a layer, as far as kernels depend on them: their widths."""
    shape = list(stack.shape[1:])
    shape[width_dim] //= local.axis_size("tensor")
    return jax.ShapeDtypeStruct(shape, stack.dtype)
