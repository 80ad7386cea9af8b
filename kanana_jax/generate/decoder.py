"""The forward pass over a cache of latents: a prompt in chunks, then one token at a time.

A cache row belongs to one sequence and holds position t at index t. What lies past a row's position
is from padding or an earlier sequence; it is overwritten before a query may see it.

Letters: B rows, S new tokens of a row, T cache length, J latent and rotary key (see
model.absorbed), D hidden, V vocabulary, E experts.
"""

import contextlib
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kanana_jax import config, model
from kanana_jax.generate import sampling
from kanana_jax.model import absorbed, layers, rope

Cache = tuple[Float[Array, "B T J"], ...]  # one array per layer


_SMALLEST_CHUNK = 32


class Layer(NamedTuple):
    block: dict[str, Any]  # as `absorbed.absorb` returns it
    bias_E: Float[Array, "E"]  # empty in a dense layer


class UnstackedWeights(NamedTuple):
    """A model as decoding reads it."""

    embed_VD: Float[Array, "V D"]
    final_norm_D: Float[Array, "D"]
    head_DV: Float[Array, "D V"] | None  # None: the embedding's
    layers: tuple[Layer, ...]


def from_stacks(cfg: config.ModelConfig, weights: model.Weights) -> UnstackedWeights:
    """The weights of training, layer by layer; the stacks are copied."""
    params, bias_LE = weights.params, weights.buffers["router_bias"]

    def layer(index: int) -> Layer:
        stack, place = locate(cfg, index)
        bias_E = bias_LE[place] if stack == "moe_layers" else jnp.zeros(0)
        one = jax.tree.map(lambda x: x[place], params[stack])
        return Layer(absorbed.absorb(cfg, one), bias_E)

    made = tuple(layer(index) for index in range(cfg.num_layers))
    return UnstackedWeights(params["embed"], params["final_norm"], params.get("head"), made)


def locate(cfg: config.ModelConfig, index: int) -> tuple[str, int]:
    """The stack of training's parameters that has layer `index`, and the layer's place in it."""
    if index < cfg.num_dense_layers:
        return "dense_layers", index
    return "moe_layers", index - cfg.num_dense_layers


def on_mesh(mesh: jax.sharding.Mesh | None) -> contextlib.AbstractContextManager:
    """Inside, everything here runs on `mesh`; None: on one device."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def check_sizes(**sizes: int) -> None:
    """Raises ConfigError unless all are positive."""
    for name, number in sizes.items():
        if number < 1:
            raise config.ConfigError(f"{name} must be positive, got {number}")


def padded_chunk(num_tokens: int, chunk: int) -> int:
    """The smallest compiled width that holds so many tokens: a power of two, or `chunk`."""
    return min(chunk, max(_SMALLEST_CHUNK, 1 << (num_tokens - 1).bit_length()))


def init_cache(
    cfg: config.ModelConfig, execution: config.ExecutionConfig, num_rows: int, length: int
) -> Cache:
    """A cache of zeros in the dtype that the model computes in."""
    shape = (num_rows, length, cfg.kv_lora_rank + cfg.qk_rope_head_dim)
    return tuple(jnp.zeros(shape, layers.compute_dtype(execution)) for _ in range(cfg.num_layers))


def forward(
    cfg: config.ModelConfig,
    execution: config.ExecutionConfig,
    weights: UnstackedWeights,
    cache: Cache,
    tokens_BS: Int[Array, "B S"],
    start_B: Int[Array, "B"],
    row_B: Int[Array, "B"] | None = None,
) -> tuple[Float[Array, "B S D"], Cache, tuple[Float[Array, "E"], ...]]:
    """What the head reads of tokens at positions start, start + 1, ...; and the cache with them.

    Third, how many of the tokens each expert got, for every MoE layer. `row_B` says which cache row
    each sequence has; None: sequence b has row b.
    """
    positions_BS = start_B[:, None] + jnp.arange(tokens_BS.shape[1])
    rotation = rope.rotation(cfg, positions_BS)
    x_BSD = weights.embed_VD[tokens_BS].astype(layers.compute_dtype(execution))
    is_token_BS = jnp.ones(tokens_BS.shape, bool)
    written, loads = [], []
    for index, (layer, cache_BTJ) in enumerate(zip(weights.layers, cache, strict=True)):
        block = absorbed.bind(cfg, execution, layer.block, is_moe=index >= cfg.num_dense_layers)
        attend = functools.partial(
            block.attention,
            rotation=rotation,
            positions_BS=positions_BS,
            cache=cache_BTJ,
            row_B=row_B,
        )
        x_BSD, (cache_BTJ, stats) = block.with_attention(attend, x_BSD, layer.bias_E, is_token_BS)
        written.append(cache_BTJ)
        if stats is not None:
            loads.append(stats.load_E)
    hidden_BSD = layers.rms_norm(
        x_BSD, weights.final_norm_D, cfg.rms_norm_eps, zero_centered=cfg.zero_centered_gamma
    )
    return hidden_BSD, tuple(written), tuple(loads)


def logits(
    cfg: config.ModelConfig, weights: UnstackedWeights, hidden: Float[Array, "*rows D"]
) -> Float[Array, "*rows V"]:
    """Float32 logits of hidden states."""
    return model.logits(cfg, {"embed": weights.embed_VD, "head": weights.head_DV}, hidden)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def prefill(
    cfg: config.ModelConfig,
    execution: config.ExecutionConfig,
    weights: UnstackedWeights,
    cache: Cache,
    row: Int[Array, ""],
    tokens_S: Int[Array, "S"],
    start: Int[Array, ""],
    last: Int[Array, ""],
) -> tuple[Float[Array, "V"], Cache]:
    """A chunk of one row's prompt from position `start`; the logits after its token `last`."""
    start_B, row_B = jnp.asarray(start)[None], jnp.asarray(row)[None]
    hidden_BSD, cache, _ = forward(cfg, execution, weights, cache, tokens_S[None], start_B, row_B)
    return logits(cfg, weights, hidden_BSD[0, last]), cache


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def decode(
    cfg: config.ModelConfig,
    execution: config.ExecutionConfig,
    weights: UnstackedWeights,
    cache: Cache,
    tokens_B: Int[Array, "B"],
    positions_B: Int[Array, "B"],
) -> tuple[Float[Array, "B V"], Cache]:
    """One token of every row; the logits after it."""
    hidden_B1D, cache, _ = forward(cfg, execution, weights, cache, tokens_B[:, None], positions_B)
    return logits(cfg, weights, hidden_B1D[:, 0]), cache


@functools.partial(
    jax.jit,
    static_argnames=("cfg", "execution", "num_tokens", "is_filtered"),
    donate_argnames="cache",
)
def draw(
    cfg: config.ModelConfig,
    execution: config.ExecutionConfig,
    weights: UnstackedWeights,
    cache: Cache,
    tokens_B: Int[Array, "B"],
    positions_B: Int[Array, "B"],
    how: sampling.Rows,
    *,
    num_tokens: int,
    is_filtered: bool,
) -> tuple[Int[Array, "num_tokens B"], Cache]:
    """The next tokens of every row, without a word to the host between them.

    `is_filtered` is that of `sampling.sample`.
    """

    def step(carry, _):
        cache, tokens_B, positions_B, how = carry
        logits_BV, cache = decode(cfg, execution, weights, cache, tokens_B, positions_B)
        tokens_B = sampling.sample(logits_BV, how, is_filtered=is_filtered)
        how = how._replace(num_drawn_B=how.num_drawn_B + 1)
        return (cache, tokens_B, positions_B + 1, how), tokens_B

    first = (cache, tokens_B, positions_B, how)
    (cache, *_), tokens_SB = jax.lax.scan(step, first, length=num_tokens)
    return tokens_SB, cache


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def score(
    cfg: config.ModelConfig,
    execution: config.ExecutionConfig,
    weights: UnstackedWeights,
    cache: Cache,
    tokens_BS: Int[Array, "B S"],
    start_B: Int[Array, "B"],
    targets_BS: Int[Array, "B S"],
) -> tuple[Float[Array, "B S"], Int[Array, "B S"], Cache]:
    """Log-probability of each target after its token, and the most likely token there.

    Tokens are at positions start, start + 1, ...; row b continues cache row b.
    """
    hidden_BSD, cache, _ = forward(cfg, execution, weights, cache, tokens_BS, start_B)

    def of_row(row):
        hidden_SD, targets_S = row
        logits_SV = logits(cfg, weights, hidden_SD)
        picked_S = jnp.take_along_axis(logits_SV, targets_S[:, None], axis=-1)[:, 0]
        return picked_S - jax.nn.logsumexp(logits_SV, axis=-1), jnp.argmax(logits_SV, axis=-1)

    # Logits of one row at a time: they are the largest array.
    logprob_BS, best_BS = jax.lax.map(of_row, (hidden_BSD, targets_BS))
    return logprob_BS, best_BS, cache
