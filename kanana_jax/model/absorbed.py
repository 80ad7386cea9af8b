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
from kanana_jax.model import layers, mla, rope, transformer
from kanana_jax.model.describe import ParamSpec, describe

Params = dict[str, Any]


class AbsorbedAttention(mla.LatentAttention):
    """`LatentAttention` with wkv_b as two stacks of matrices, one matrix per head."""

    def __init__(self, cfg: ModelConfig, execution: ExecutionConfig, *, rngs: nnx.Rngs):
        super().__init__(cfg, execution, rngs=rngs)
        key_HNC, value_HCU = _split(cfg, self.wkv_b[...])
        self.w_key, self.w_value = nnx.Param(key_HNC), nnx.Param(value_HCU)
        del self.wkv_b

    def over_cache(
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
        new_BSJ = layers.in_two_rows(
            lambda x: jnp.concatenate(self.latents(x, rotation), axis=-1), x_BSD
        )
        to_B = jnp.arange(x_BSD.shape[0]) if row_B is None else row_B
        cache = cache.at[to_B[:, None], positions_BS].set(new_BSJ, unique_indices=True)
        cached_BTJ = cache if row_B is None else cache[row_B]

        q_BSHK = layers.in_two_rows(lambda x: self.queries(x, rotation), x_BSD)
        w_key_HNC = self.w_key[...].astype(dtype)
        q_latent_BSHC = jnp.einsum("BSHN,HNC->BSHC", q_BSHK[..., :nope], w_key_HNC)
        is_one_token = x_BSD.shape[:2] == (1, 1)
        if is_one_token:
            # A kernel of its own: fused with what follows XLA:GPU reads W_uk at half the speed.
            q_latent_BSHC = jax.lax.optimization_barrier(q_latent_BSHC)
        q_BSHJ = jnp.concatenate([q_latent_BSHC, q_BSHK[..., nope:]], axis=-1)
        score_BHST = jnp.einsum(
            "BSHJ,BTJ->BHST", q_BSHJ, cached_BTJ, preferred_element_type=jnp.float32
        )
        if is_one_token:
            # As they are: XLA:GPU prefers them transposed, where a softmax takes five kernels.
            score_BHST = jax.lax.optimization_barrier(score_BHST)
        is_seen_BST = jnp.arange(cached_BTJ.shape[1]) <= positions_BS[..., None]
        score_BHST = jnp.where(is_seen_BST[:, None], score_BHST * rope.softmax_scale(cfg), -jnp.inf)
        weight_BHST = jax.nn.softmax(score_BHST, axis=-1).astype(dtype)
        # With the rotary columns, which are dropped after: a slice of the cache would be a copy.
        seen_BSHJ = jnp.einsum("BHST,BTJ->BSHJ", weight_BHST, cached_BTJ)
        w_value_HCU = self.w_value[...].astype(dtype)
        out_BSHU = jnp.einsum("BSHC,HCU->BSHU", seen_BSHJ[..., :latent], w_value_HCU)
        wo_HUD = self.wo[...].astype(dtype)
        out_BSD = layers.in_two_rows(lambda x: jnp.einsum("BSHU,HUD->BSD", x, wo_HUD), out_BSHU)
        return out_BSD, cache


class CachedBlock(transformer.Block):
    """A block whose attention is `AbsorbedAttention`."""

    def __init__(
        self, cfg: ModelConfig, execution: ExecutionConfig, *, is_moe: bool, rngs: nnx.Rngs
    ):
        super().__init__(cfg, execution, is_moe=is_moe, rngs=rngs)
        self.attention = AbsorbedAttention(cfg, execution, rngs=rngs)


def absorb(cfg: ModelConfig, params: Params) -> Params:
    """Parameters of a `CachedBlock` from those of one layer, arrays of numpy or jax."""
    attention = dict(params["attention"])
    attention["w_key"], attention["w_value"] = _split(cfg, attention.pop("wkv_b"))
    return params | {"attention": attention}


def describe_layer(cfg: ModelConfig, *, is_moe: bool) -> Params:
    """A ParamSpec for each parameter of a `CachedBlock`; axes and roles hold, matrices do not."""
    stack = describe(cfg)["moe_layers" if is_moe else "dense_layers"]
    layer = jax.tree.map(
        lambda spec: ParamSpec(role=spec.role, logical_axes=spec.logical_axes[1:]),
        stack,
        is_leaf=lambda x: isinstance(x, ParamSpec),
    )
    attention = dict(layer["attention"])
    del attention["wkv_b"]
    for name, axes in (
        ("w_key", ("heads", "head_dim", "kv_lora")),
        ("w_value", ("heads", "kv_lora", "head_dim")),
    ):
        attention[name] = ParamSpec(role="matrix", logical_axes=axes)
    return layer | {"attention": attention}


def bind(
    cfg: ModelConfig, execution: ExecutionConfig, params: Params, *, is_moe: bool
) -> CachedBlock:
    """The block that holds `params`, arrays or tracers."""
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
    make = lambda: CachedBlock(cfg, execution, is_moe=is_moe, rngs=nnx.Rngs(0))  # noqa: E731
    return nnx.split(jax.eval_shape(make))


def shapes(cfg: ModelConfig, *, is_moe: bool) -> Params:
    """Shapes of a `CachedBlock`'s parameters, float32."""
    return nnx.to_pure_dict(_skeleton(cfg, ExecutionConfig(), is_moe)[1])


def _split(cfg: ModelConfig, wkv_b_CHM: Any) -> tuple[Any, Any]:
    nope = cfg.qk_nope_head_dim
    return wkv_b_CHM[..., :nope].transpose(1, 2, 0), wkv_b_CHM[..., nope:].transpose(1, 0, 2)
