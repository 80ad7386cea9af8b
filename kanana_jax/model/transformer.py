"""The decoder: embedding, a stack of dense blocks, a stack of MoE blocks, final norm, head.

    x = embed[tokens]        x <- block(x)        logits = norm(x) W_head

Parameters leave as a plain nested dict in which each stack's leaves carry its layers on axis 0.

Letters: B batch, S sequence, D hidden, V vocabulary, L layers, H heads, E experts, K experts of
a token, X parts of the batch, N bins.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from kanana_jax.batch import Features, Inputs
from kanana_jax.config import ExecutionConfig, ModelConfig
from kanana_jax.model import (
    balance,
    block,
    encoders,
    expert_matrices,
    layers,
    moe,
    rope,
)
from kanana_jax.parallel import local

Params = dict[str, Any]

_DEFAULT_EXECUTION = ExecutionConfig()


class Aux(NamedTuple):
    """What the forward pass saw. Padding (segment id 0) counts nowhere; no field but the loss has
    a gradient."""

    # Dense layers first, encoders' layers last, images before sounds; -inf: there was no token.
    max_logits: Float[Array, "L H"]
    sequence_load: Float[Array, "Lmoe B E"]  # tokens of each sequence sent to each expert
    balance_loss: Float[Array, ""]  # sum over MoE layers, unweighted
    # By the bias with which tokens would just have chosen an expert; None: not asked for.
    needed: Int[Array, "Lmoe X E N"] | None = None
    routes: Int[Array, "Lmoe B S K"] | None = None  # the experts of each token

    @property
    def expert_load(self) -> Float[Array, "Lmoe E"]:
        """Tokens sent to each expert in this batch."""
        return self.sequence_load.sum(axis=1)

    @property
    def routing(self) -> balance.Routing:
        return balance.Routing(self.expert_load, self.needed)


class Weights(NamedTuple):
    """All that a forward pass needs. Buffers are what no gradient moves: "router_bias", (L, E),
    and within a step "expert_matrices", which `expert_matrices.once` makes of these parameters.

    Adapters, as `lora.adapters` makes them, are added to parameters as each layer begins.
    """

    params: Params
    buffers: dict[str, Any]
    adapters: Params | None = None


class Transformer(nnx.Module):
    """A language model of either attention; `model(inputs)` gives logits and statistics.

    Float32 parameters; activations in `execution.compute_dtype`; router, norms and logits in
    float32.
    """

    def __init__(
        self,
        cfg: ModelConfig,
        execution: ExecutionConfig = _DEFAULT_EXECUTION,
        *,
        rngs: nnx.Rngs,
    ):
        if not cfg.vocab_size:
            raise ValueError(
                "a model needs vocab_size > 0, got 0; take the tokenizer's: "
                "dataclasses.replace(cfg, vocab_size=corpus.vocab_size)."
            )
        self.cfg, self.execution = cfg, execution
        self.embed = layers.normal(rngs, cfg, cfg.vocab_size, cfg.hidden_size)
        if cfg.num_dense_layers:
            self.dense_layers = block.new_stack(
                cfg, execution, cfg.num_dense_layers, is_moe=False, rngs=rngs
            )
        if cfg.num_moe_layers:
            self.moe_layers = block.new_stack(
                cfg, execution, cfg.num_moe_layers, is_moe=True, rngs=rngs
            )
        self.final_norm = layers.norm_gamma(cfg, cfg.hidden_size)
        if not cfg.tie_embeddings:
            self.head = layers.normal(rngs, cfg, cfg.hidden_size, cfg.vocab_size)
        if cfg.scalar_head:
            # Zero, so that all rewards begin alike and the first step moves this vector only.
            self.scalar_head = nnx.Param(jnp.zeros((cfg.hidden_size,), jnp.float32))
        for name, encoder in encoders.modules(cfg, execution, rngs=rngs).items():
            setattr(self, name, encoder)

    def __call__(
        self,
        inputs: Inputs,
        router_bias_LE: Float[Array, "L E"] | None = None,
        adapters: Params | None = None,
    ) -> tuple[Float[Array, "B S V"], Aux]:
        """Logits and statistics. By default the bias is zero."""
        if router_bias_LE is None:
            router_bias_LE = balance.init_router_bias(self.cfg)
        hidden_BSD, aux = self.hidden_states(inputs, router_bias_LE, adapters)
        head_DV = self.embed[...].T if self.cfg.tie_embeddings else self.head[...]
        return _project(hidden_BSD, head_DV), aux

    def hidden_states(
        self,
        inputs: Inputs,
        router_bias_LE: Float[Array, "L E"],
        adapters: Params | None = None,
        *,
        counts_needed: bool = False,
        matrices: expert_matrices.OfLayers | None = None,
    ) -> tuple[Float[Array, "B S D"], Aux]:
        """What the head reads (after the final norm), and the statistics."""
        cfg, execution = self.cfg, self.execution
        wanted = (cfg.num_moe_layers, cfg.num_experts)
        if router_bias_LE.shape != wanted:
            raise ValueError(
                f"router_bias must have shape (num_moe_layers, num_experts) = {wanted}, "
                f"got {router_bias_LE.shape}; start from model.init_router_bias(cfg)."
            )
        tokens_BS, positions_BS, segment_ids_BS = map(jnp.asarray, inputs[:3])
        of_stack = adapters or {}
        context = block.Context(rope.rotation(cfg, positions_BS), segment_ids_BS, counts_needed)
        x_BSD = _look_up(self.embed[...], tokens_BS, layers.compute_dtype(execution))
        x_BSD, max_of_encoders = self._with_features(x_BSD, inputs.features)
        max_logits, stats = [], None
        if cfg.num_dense_layers:
            no_bias_L0 = jnp.zeros((cfg.num_dense_layers, 0))
            x_BSD, (max_LH, _) = block.run_stack(
                execution,
                self.dense_layers,
                x_BSD,
                no_bias_L0,
                None,
                of_stack.get("dense_layers"),
                None,
                context,
            )
            max_logits.append(max_LH)
        if cfg.num_moe_layers:
            x_BSD, (max_LH, stats) = block.run_stack(
                execution,
                self.moe_layers,
                x_BSD,
                router_bias_LE,
                _by_layer(inputs.routes),
                of_stack.get("moe_layers"),
                matrices,
                context,
            )
            max_logits.append(max_LH)
        if stats is None:
            no_route_LBSK = jnp.zeros((0, *tokens_BS.shape, cfg.num_experts_per_token), jnp.int32)
            no_load_LBE = jnp.zeros((0, x_BSD.shape[0], cfg.num_experts))
            stats = moe.RoutingStats(no_route_LBSK, no_load_LBE, jnp.zeros((0,)))
        if max_of_encoders:
            max_logits = _same_heads([*max_logits, *max_of_encoders])
        aux = Aux(
            jnp.concatenate(max_logits),
            stats.load_BE,
            stats.balance_loss.sum(),
            stats.needed_XEN,
            stats.expert_BSK,
        )
        return block.constrain_stream(layers.norm(cfg, x_BSD, self.final_norm)), aux

    def _with_features(
        self, x_BSD: Float[Array, "B S D"], features: Features | None
    ) -> tuple[Float[Array, "B S D"], list[Float[Array, "L H"]]]:
        """What the first layer reads, and the largest logits of each encoder that there is."""
        kind = None if features is None else encoders.kind_of(self.cfg, features)
        max_logits = []
        for name, shape in encoders.shapes(self.cfg).items():
            if features is None or name != kind:
                max_logits.append(jnp.full((shape.num_layers, shape.num_heads), -jnp.inf))
                continue
            slots_BMD, max_LH = getattr(self, name).slots(features)
            max_logits.append(max_LH)
            x_BSD = encoders.insert(x_BSD, slots_BMD, jnp.asarray(features.slots))
            x_BSD = block.constrain_stream(x_BSD)
        return x_BSD, max_logits


def _same_heads(max_logits: list[Array]) -> list[Array]:
    """Filled up with -inf to the largest number of heads of a layer."""
    most = max(x.shape[1] for x in max_logits)
    return [
        jnp.pad(x, ((0, 0), (0, most - x.shape[1])), constant_values=-jnp.inf) for x in max_logits
    ]


def _by_layer(routes_BSLK: Any) -> Array | None:
    if routes_BSLK is None:
        return None
    return jnp.moveaxis(jnp.asarray(routes_BSLK, jnp.int32), 2, 0)


def _look_up(embed_VD: Array, tokens_BS: Array, dtype: jnp.dtype) -> Array:
    def look_up(embed_VD, tokens_BS):
        return local.gather_weight(embed_VD, 1, like=tokens_BS)[tokens_BS].astype(dtype)

    tokens = ("batch", "sequence")
    return local.on_parts(
        look_up, (embed_VD, tokens_BS), (("vocab", "embed"), tokens), (*tokens, "whole")
    )


@jax.named_scope("head")
def _project(hidden_BSD: Array, head_DV: Array) -> Array:
    head_DV = head_DV.astype(hidden_BSD.dtype)
    return jnp.einsum("...D,DV->...V", hidden_BSD, head_DV, preferred_element_type=jnp.float32)


def init(cfg: ModelConfig, key: Array) -> Weights:
    """Fresh float32 weights; jit it with out_shardings to build a large model in place."""
    return Weights(init_params(cfg, key), init_buffers(cfg))


def init_params(cfg: ModelConfig, key: Array) -> Params:
    return nnx.to_pure_dict(nnx.state(Transformer(cfg, rngs=nnx.Rngs(key))))


def init_buffers(cfg: ModelConfig) -> dict[str, Any]:
    return {"router_bias": balance.init_router_bias(cfg)}


@functools.lru_cache(maxsize=64)
def _skeleton(cfg: ModelConfig, execution: ExecutionConfig):
    """The module's graph and the shapes of its state, without any array."""
    return nnx.split(jax.eval_shape(lambda: Transformer(cfg, execution, rngs=nnx.Rngs(0))))


def bind(
    cfg: ModelConfig, params: Params, execution: ExecutionConfig = _DEFAULT_EXECUTION
) -> Transformer:
    """The module that holds `params`, arrays or tracers."""
    graph, abstract = _skeleton(cfg, execution)
    expected, got = jax.tree.structure(nnx.to_pure_dict(abstract)), jax.tree.structure(params)
    if expected != got:
        raise ValueError(
            f"params must have the structure of model.init(cfg, key).params, {expected}; got {got}"
        )
    state = jax.tree.unflatten(jax.tree.structure(abstract), jax.tree.leaves(params))
    return nnx.merge(graph, state)


def hidden_states(
    cfg: ModelConfig,
    weights: Weights,
    inputs: Inputs,
    execution: ExecutionConfig = _DEFAULT_EXECUTION,
    *,
    counts_needed: bool = False,
) -> tuple[Float[Array, "B S D"], Aux]:
    """What the head reads, so that a loss can form `logits` for a few tokens at a time.

    `counts_needed` asks for `Aux.needed`, which quantile balancing reads.
    """
    bound = bind(cfg, weights.params, execution)
    return bound.hidden_states(
        inputs,
        weights.buffers["router_bias"],
        weights.adapters,
        counts_needed=counts_needed,
        matrices=weights.buffers.get("expert_matrices"),
    )


def logits(
    cfg: ModelConfig, params: Params, hidden: Float[Array, "*rows D"]
) -> Float[Array, "*rows V"]:
    """Float32 logits of hidden states."""
    return _project(hidden, params["embed"].T if cfg.tie_embeddings else params["head"])


def scalars(
    cfg: ModelConfig, params: Params, hidden_BSD: Float[Array, "B S D"]
) -> Float[Array, "B S"]:
    """The scalar head's output for hidden states, in float32. ValueError where there is none."""
    if not cfg.scalar_head:
        raise ValueError(
            "scalars need a model with model.scalar_head=true, got one without; "
            "set it, and an untrained head starts at zero"
        )
    # Rewards are compared by small differences, which bfloat16 would round away.
    wide_BSD = hidden_BSD.astype(jnp.float32)
    return jnp.einsum("BSD,D->BS", wide_BSD, params["scalar_head"].astype(jnp.float32))


def apply(
    cfg: ModelConfig,
    weights: Weights,
    inputs: Inputs,
    execution: ExecutionConfig = _DEFAULT_EXECUTION,
) -> tuple[Float[Array, "B S V"], Aux]:
    """Float32 logits and statistics."""
    bound = bind(cfg, weights.params, execution)
    return bound(inputs, weights.buffers["router_bias"], weights.adapters)


@functools.lru_cache(maxsize=64)
def num_params(cfg: ModelConfig) -> tuple[int, int]:
    """Parameters in all, and those that one token uses (the router bias is not a parameter)."""
    shapes = jax.eval_shape(functools.partial(init_params, cfg), jax.random.key(0))
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    per_expert = 3 * cfg.moe_intermediate_size * cfg.hidden_size
    idle = cfg.num_moe_layers * (cfg.num_experts - cfg.num_experts_per_token) * per_expert
    return total, total - idle
