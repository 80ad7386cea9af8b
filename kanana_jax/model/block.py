"""A layer, and a stack of layers.

    x <- x + attention(norm(x))        x <- x + mlp(norm(x))

Every leaf of a stack has its layers on axis 0. NNX modules are pytrees, so one `jax.lax.scan` runs
a stack and compiles one block of it, unless `execution.scan_layers` is false.

Letters: B batch, S sequence, D hidden, L layers, H heads, E experts, K experts of a token.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from kanana_jax.config import ExecutionConfig, ModelConfig
from kanana_jax.model import attention, expert_matrices, layers, lora, moe, rope, xla_hints
from kanana_jax.parallel import local
from pallas_kernels import maxima
from pallas_kernels.moe_mlp.matrices import Matrices

_REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Context(NamedTuple):
    """What every block reads besides the residual stream."""

    rotation: rope.Rotation
    segment_ids_BS: Int[Array, "B S"]
    counts_needed: bool = False  # whether MoE layers count the biases that tokens need


class Block(nnx.Module):
    """A layer around an attention: of whole sequences in training, over a cache in `decoding`."""

    def __init__(
        self,
        cfg: ModelConfig,
        execution: ExecutionConfig,
        attention: Callable[..., tuple[Array, Any]],
        *,
        is_moe: bool,
        rngs: nnx.Rngs,
    ):
        self.cfg = cfg
        self.attention_norm = layers.norm_gamma(cfg, cfg.hidden_size)
        self.attention = attention
        self.mlp_norm = layers.norm_gamma(cfg, cfg.hidden_size)
        if is_moe:
            self.mlp = moe.MoE(cfg, execution, rngs=rngs)
        else:
            self.mlp = layers.SwiGLU(cfg, execution, cfg.intermediate_size, rngs=rngs)

    def __call__(
        self,
        x_BSD: Float[Array, "B S D"],
        bias_E: Float[Array, "E"],
        context: Context,
        replayed_BSK: Int[Array, "B S K"] | None = None,
        matrices: Matrices | None = None,
    ) -> tuple[Float[Array, "B S D"], tuple[Float[Array, "H"], moe.RoutingStats | None]]:
        """Returns the residual stream, and (largest logit of each head, routing statistics)."""
        rotation, segment_ids_BS, counts_needed = context
        x_BSD, (max_logits_BH, stats) = self.with_attention(
            lambda normed_BSD: self.attention(normed_BSD, rotation, segment_ids_BS),
            x_BSD,
            bias_E,
            segment_ids_BS != 0,
            counts_needed,
            replayed_BSK,
            matrices,
        )
        return x_BSD, (maxima.keep_nan(max_logits_BH, axis=0), stats)

    def with_attention(
        self,
        attend: Callable[[Array], tuple[Array, Any]],
        x_BSD: Float[Array, "B S D"],
        bias_E: Float[Array, "E"],
        is_token_BS: Bool[Array, "B S"],
        counts_needed: bool = False,
        replayed_BSK: Int[Array, "B S K"] | None = None,
        matrices: Matrices | None = None,
    ) -> tuple[Float[Array, "B S D"], tuple[Any, moe.RoutingStats | None]]:
        """The layer with `attend` as its attention: decoding binds a cache to it.

        Returns the residual stream, and (what `attend` returns besides its output, statistics).
        """
        norm = functools.partial(layers.norm, self.cfg)
        with jax.named_scope("attention"):  # profiles are read by these names
            attended_BSD, attention_aux = attend(norm(x_BSD, self.attention_norm))
        x_BSD = constrain_stream(x_BSD + attended_BSD)
        normed_BSD = norm(x_BSD, self.mlp_norm)
        with jax.named_scope("mlp"):
            if isinstance(self.mlp, moe.MoE):
                mlp_BSD, stats = self.mlp(
                    normed_BSD, bias_E, is_token_BS, counts_needed, replayed_BSK, matrices
                )
            else:
                mlp_BSD, stats = self.mlp(normed_BSD), None
        return constrain_stream(x_BSD + mlp_BSD), (attention_aux, stats)


def constrain_stream(x_BSD: Array) -> Array:
    """The residual stream, whole in its width on every device: weights move to it."""
    return local.constrain(x_BSD, ("batch", "sequence", "whole"))


def new_stack(
    cfg: ModelConfig, execution: ExecutionConfig, num_layers: int, *, is_moe: bool, rngs: nnx.Rngs
) -> Block:
    """One Block whose every leaf has a leading axis of `num_layers` layers."""

    def make(key):
        rngs = nnx.Rngs(key)
        of_sequences = attention.of(cfg).of_sequences(cfg, execution, rngs=rngs)
        return Block(cfg, execution, of_sequences, is_moe=is_moe, rngs=rngs)

    return jax.vmap(make)(jax.random.split(rngs.params(), num_layers))


def run_stack(
    execution: ExecutionConfig,
    stack: Block,
    x_BSD: Array,
    bias_LE: Array,
    replayed_LBSK: Array | None,
    adapters: dict[str, Any] | None,
    matrices: expert_matrices.OfLayers | None,
    context: Context,
):
    """The residual stream behind the stack, and what its layers return besides, stacked."""
    layers_L = stack, bias_LE, replayed_LBSK, adapters
    is_scanned = execution.scan_layers is not False

    def body(x_BSD, layer):
        block, bias_E, replayed_BSK, adapters, matrices = layer
        block = lora.applied(block, adapters, layers.compute_dtype(execution))
        return block(x_BSD, bias_E, context, replayed_BSK, matrices)

    if execution.remat != "none":
        # Inside a scan nothing can merge the recomputation with the forward pass.
        policy = _REMAT_POLICIES[execution.remat]
        body = jax.checkpoint(body, policy=policy, prevent_cse=not is_scanned)
    if is_scanned:
        return jax.lax.scan(body, x_BSD, (*layers_L, matrices))
    body = jax.jit(body)  # traced once for all layers
    stats_of_layers = []
    leaves, treedef = jax.tree.flatten(layers_L)
    for i, layer in enumerate(zip(*map(xla_hints.unstack_layers, leaves), strict=True)):
        of_layer = None if matrices is None else matrices[i]
        x_BSD, stats = body(x_BSD, (*jax.tree.unflatten(treedef, layer), of_layer))
        stats_of_layers.append(stats)
    return x_BSD, jax.tree.map(lambda *layers: jnp.stack(layers), *stats_of_layers)
