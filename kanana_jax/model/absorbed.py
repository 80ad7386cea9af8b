"""Blocks that decode: attention over cached latents, key and value projections absorbed.

    cached per layer and token: [norm(c), rope(k_R)]               kv_lora_rank + rotary numbers
    score_h = scale [q_nope W_uk_h, rope(q_rope)] . cached         W_uk absorbed into the query
    out_h   = (softmax(score_h) c) W_uv_h                          W_uv absorbed into the output

Keys and values of single heads are never formed. Every layer has arrays of its own: kernels would
be handed copies of what is sliced from a stack, which for experts is most of the model.

Letters: B rows, S new tokens of a row, T cache length, H heads, N qk_nope_head_dim, R rotary,
C kv_lora_rank, J = C + R, U v_head_dim, D hidden, E experts.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from kanana_jax.config import ExecutionConfig, ModelConfig
from kanana_jax.model import layers, mla, rope, transformer, xla_hints
from kanana_jax.model.describe import ParamSpec, describe

Params = dict[str, Any]


class AbsorbedAttention(mla.Projections):
    """Attention over cached latents: W_uk and W_uv as two stacks, one matrix per head."""

    def __init__(self, cfg: ModelConfig, execution: ExecutionConfig, *, rngs: nnx.Rngs):
        super().__init__(cfg, execution, rngs=rngs)
        heads, latent, value_dim = cfg.num_heads, cfg.kv_lora_rank, cfg.v_head_dim
        self.w_key = layers.normal(rngs, cfg, heads, cfg.qk_nope_head_dim, latent)
        self.w_value = layers.normal(rngs, cfg, heads, latent, value_dim)
        self.wo = layers.normal(rngs, cfg, heads, value_dim, cfg.hidden_size)

    def __call__(
        self,
        x_BSD: Float[Array, "B S D"],
        rotation: rope.Rotation,
        positions_BS: Int[Array, "B S"],
        cache: Float[Array, "rows T J"],
        row_B: Int[Array, "B"] | None,
    ) -> tuple[Float[Array, "B S D"], Float[Array, "rows T J"]]:
        """Writes the new tokens' latents and attends over all that the cache then holds of a row.

        Returns the output and the cache. `row_B` says which row each sequence has; None: its own.
        A position beyond the cache is not written.
        """
        cfg, dtype = self.cfg, x_BSD.dtype
        nope, latent = cfg.qk_nope_head_dim, cfg.kv_lora_rank
        new_BSJ = xla_hints.pad_single_row(
            lambda x: jnp.concatenate(self.latents(x, rotation), axis=-1), x_BSD
        )
        to_B = jnp.arange(x_BSD.shape[0]) if row_B is None else row_B
        cache = cache.at[to_B[:, None], positions_BS].set(new_BSJ, unique_indices=True)
        cached_BTJ = cache if row_B is None else cache[row_B]

        q_BSHK = xla_hints.pad_single_row(lambda x: self.queries(x, rotation), x_BSD)
        w_key_HNC = self.w_key[...].astype(dtype)
        q_latent_BSHC = jnp.einsum("BSHN,HNC->BSHC", q_BSHK[..., :nope], w_key_HNC)
        q_latent_BSHC = xla_hints.own_kernel(q_latent_BSHC)
        q_BSHJ = jnp.concatenate([q_latent_BSHC, q_BSHK[..., nope:]], axis=-1)
        score_BHST = jnp.einsum(
            "BSHJ,BTJ->BHST", q_BSHJ, cached_BTJ, preferred_element_type=jnp.float32
        )
        score_BHST = xla_hints.keep_score_layout(score_BHST)
        is_seen_BST = jnp.arange(cached_BTJ.shape[1]) <= positions_BS[..., None]
        score_BHST = jnp.where(is_seen_BST[:, None], score_BHST * rope.softmax_scale(cfg), -jnp.inf)
        weight_BHST = jax.nn.softmax(score_BHST, axis=-1).astype(dtype)
        mean_BSHC = xla_hints.weighted_latents(weight_BHST, cached_BTJ, latent)
        out_BSHU = jnp.einsum("BSHC,HCU->BSHU", mean_BSHC, self.w_value[...].astype(dtype))
        wo_HUD = self.wo[...].astype(dtype)
        out_BSD = xla_hints.pad_single_row(
            lambda x: jnp.einsum("BSHU,HUD->BSD", x, wo_HUD), out_BSHU
        )
        return out_BSD, cache


def absorb(cfg: ModelConfig, params: Params) -> Params:
    """Parameters of a decoding block from those of one layer, arrays of numpy or jax."""
    nope, wkv_b_CHM = cfg.qk_nope_head_dim, params["attention"]["wkv_b"]
    return _with_absorbed(
        params,
        w_key=wkv_b_CHM[..., :nope].transpose(1, 2, 0),
        w_value=wkv_b_CHM[..., nope:].transpose(1, 0, 2),
    )


def _with_absorbed(layer: Params, **absorbed: Any) -> Params:
    """A tree of one layer with these leaves in the place of wkv_b."""
    kept = {name: leaf for name, leaf in layer["attention"].items() if name != "wkv_b"}
    return layer | {"attention": kept | absorbed}


def describe_layer(cfg: ModelConfig, *, is_moe: bool) -> Params:
    """A ParamSpec for each parameter of a decoding block: its role and axes, no matrices."""
    stack = describe(cfg)["moe_layers" if is_moe else "dense_layers"]
    layer = jax.tree.map(
        lambda spec: ParamSpec(role=spec.role, logical_axes=spec.logical_axes[1:]),
        stack,
        is_leaf=lambda x: isinstance(x, ParamSpec),
    )
    return _with_absorbed(
        layer,
        w_key=ParamSpec(role="matrix", logical_axes=("heads", "head_dim", "kv_lora")),
        w_value=ParamSpec(role="matrix", logical_axes=("heads", "kv_lora", "head_dim")),
    )


def bind(
    cfg: ModelConfig, execution: ExecutionConfig, params: Params, *, is_moe: bool
) -> transformer.Block:
    """The block that holds `params`, arrays or tracers; its attention is `AbsorbedAttention`."""
    graph, abstract = _skeleton(cfg, execution, is_moe)
    expected, got = jax.tree.structure(nnx.to_pure_dict(abstract)), jax.tree.structure(params)
    if expected != got:
        raise ValueError(
            f"a layer must have the structure of absorb(cfg, params), {expected}; got {got}"
        )
    state = jax.tree.unflatten(jax.tree.structure(abstract), jax.tree.leaves(params))
    return nnx.merge(graph, state)


@functools.lru_cache(maxsize=64)
def _skeleton(cfg: ModelConfig, execution: ExecutionConfig, is_moe: bool):
    def make():
        rngs = nnx.Rngs(0)
        attention = AbsorbedAttention(cfg, execution, rngs=rngs)
        return transformer.Block(cfg, execution, attention, is_moe=is_moe, rngs=rngs)

    return nnx.split(jax.eval_shape(make))


def shapes(cfg: ModelConfig, *, is_moe: bool) -> Params:
    """Shapes of a decoding block's parameters, float32."""
    return nnx.to_pure_dict(_skeleton(cfg, ExecutionConfig(), is_moe)[1])
