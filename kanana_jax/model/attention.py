"""Which attention a model has: the one place that asks.

kv_lora_rank            multi-head latent attention: `mla`, and `absorbed` for decoding
none, num_kv_heads      grouped-query attention: `gqa`
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from kanana_jax.config import ModelConfig
from kanana_jax.model import absorbed, causal_attention, gqa, mla
from kanana_jax.model.param_specs import ParamSpec


class Attention(NamedTuple):
    """What model, optimizer, decoding and measurements ask of an attention."""

    # (cfg, execution, rngs=...) -> a module, of whole sequences and over a cache.
    of_sequences: Callable[..., Any]
    over_cache: Callable[..., Any]
    # (cfg, split, first_layer) -> what the parameters of a stack of layers are.
    specs: Callable[[ModelConfig, str, int], dict[str, ParamSpec]]
    # Parameters of one layer in the form that decoding uses, and their specs in that form.
    prepare: Callable[[ModelConfig, dict[str, Any]], dict[str, Any]]
    prepare_specs: Callable[[dict[str, ParamSpec]], dict[str, ParamSpec]]
    # (cfg, num_rows, length, dtype) -> arrays (num_rows, length, ...) of one layer, of zeros.
    init_cache: Callable[..., Any]
    moved: Callable[[ModelConfig], causal_attention.Moved]
    # (cfg, parameters of a stack) -> A (L, _, H, K) and B (L, _, H, K): logits are a A B^T b.
    qk_factors: Callable[..., tuple[Any, Any]]


_LATENT = Attention(
    of_sequences=mla.LatentAttention,
    over_cache=absorbed.AbsorbedAttention,
    specs=mla.specs,
    prepare=absorbed.absorb,
    prepare_specs=absorbed.absorb_specs,
    init_cache=absorbed.init_cache,
    moved=mla.moved,
    qk_factors=mla.qk_factors,
)
_GROUPED = Attention(
    of_sequences=gqa.GroupedQueryAttention,
    over_cache=gqa.CachedAttention,
    specs=gqa.specs,
    prepare=lambda cfg, params: params,
    prepare_specs=lambda specs: specs,
    init_cache=gqa.init_cache,
    moved=gqa.moved,
    qk_factors=gqa.qk_factors,
)


def of(cfg: ModelConfig) -> Attention:
    return _GROUPED if cfg.kv_lora_rank is None else _LATENT
