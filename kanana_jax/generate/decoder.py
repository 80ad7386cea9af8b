"""The forward pass over a cache: a prompt in chunks, then one token at a time.

A cache row belongs to one sequence and holds position t at index t. What lies past a row's position
is from padding or an earlier sequence; it is overwritten before a query may see it.

Letters: B rows, S new tokens of a row, T cache length, D hidden, V vocabulary, L MoE layers,
K experts of a token, N steps, M slots of a row's features.
"""

import contextlib
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kanana_jax import config, model
from kanana_jax.generate import logprobs, processors, sampling, unstacked
from kanana_jax.generate.logprobs import Logprobs
from kanana_jax.generate.unstacked import AnyWeights, UnstackedWeights
from kanana_jax.model import attention, decoding, layers, moe, rope

Cache = tuple[Any, ...]  # what the attention of each layer keeps: arrays (B, T, ...)

_SMALLEST_CHUNK = 32


class Drawn(NamedTuple):
    """What N steps drew for every row."""

    tokens_NB: Int[Array | np.ndarray, "N B"]
    logp_NB: Float[Array | np.ndarray, "N B"]  # see `sampling.sample`
    # The experts of the tokens that were read to draw these; None: not asked for.
    routes_NBLK: Int[Array | np.ndarray, "N B L K"] | None
    logprobs: Logprobs | None = None  # of (N, B) tokens, where rows are processed


class Inserted(NamedTuple):
    """What stands in the place of tokens; see `model.Features`."""

    slots_BMD: Float[Array, "B M D"]
    slots_BS: Int[Array | np.ndarray, "B S"]


def on_mesh(mesh: jax.sharding.Mesh | None) -> contextlib.AbstractContextManager:
    """A context in which everything here runs on `mesh`; None: on one device."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def check_sizes(**sizes: int) -> None:
    """Raises ConfigError unless all are positive."""
    for name, number in sizes.items():
        if number < 1:
            raise config.ConfigError(f"{name} must be positive, got {number}")


def padded_chunk(num_tokens: int, chunk: int) -> int:
    """The smallest compiled width that holds `num_tokens`: a power of two, or `chunk`."""
    return min(chunk, max(_SMALLEST_CHUNK, 1 << (num_tokens - 1).bit_length()))


def init_cache(
    cfg: config.ModelConfig, execution: config.ExecutionConfig, num_rows: int, length: int
) -> Cache:
    """A cache of zeros in the dtype that the model computes in."""
    init_layer, dtype = attention.of(cfg).init_cache, layers.compute_dtype(execution)
    return tuple(init_layer(cfg, num_rows, length, dtype) for _ in range(cfg.num_layers))


def forward(
    cfg: config.ModelConfig,
    execution: config.ExecutionConfig,
    weights: UnstackedWeights,
    cache: Cache,
    tokens_BS: Int[Array, "B S"],
    start_B: Int[Array, "B"],
    row_B: Int[Array, "B"] | None = None,
    inserted: Inserted | None = None,
) -> tuple[Float[Array, "B S D"], Cache, list[moe.RoutingStats]]:
    """The head's inputs for tokens at positions start, start + 1, ...; and the cache with them.

    Third, where the tokens went in every MoE layer. `row_B` says which cache row each sequence has;
    None: sequence b has row b. Nothing is written for a row that is not in the cache.
    """
    positions_BS = start_B[:, None] + jnp.arange(tokens_BS.shape[1])
    rotation = rope.rotation(cfg, positions_BS)
    x_BSD = weights.embed_VD[tokens_BS].astype(layers.compute_dtype(execution))
    if inserted is not None:
        x_BSD = model.encoders.insert(x_BSD, inserted.slots_BMD, jnp.asarray(inserted.slots_BS))
    is_token_BS = jnp.ones(tokens_BS.shape, bool)
    written, stats_of_layers = [], []
    for index, (layer, cache_of_layer) in enumerate(zip(weights.layers, cache, strict=True)):
        block = decoding.bind(cfg, execution, layer.block, is_moe=index >= cfg.num_dense_layers)
        attend = functools.partial(
            block.attention,
            rotation=rotation,
            positions_BS=positions_BS,
            cache=cache_of_layer,
            row_B=row_B,
        )
        x_BSD, (cache_of_layer, stats) = block.with_attention(
            attend, x_BSD, layer.bias_E, is_token_BS
        )
        written.append(cache_of_layer)
        if stats is not None:
            stats_of_layers.append(stats)
    hidden_BSD = layers.norm(cfg, x_BSD, weights.final_norm)
    return hidden_BSD, tuple(written), stats_of_layers


def logits(
    cfg: config.ModelConfig, weights: UnstackedWeights, hidden: Float[Array, "*rows D"]
) -> Float[Array, "*rows V"]:
    """Float32 logits of hidden states."""
    return model.logits(cfg, {"embed": weights.embed_VD, "head": weights.head_DV}, hidden)


def routes(
    cfg: config.ModelConfig, stats_of_layers: Sequence[moe.RoutingStats], shape: tuple[int, ...]
) -> Int[Array, "B S L K"]:
    """The experts of (B, S) = `shape` tokens, as `Inputs.routes` takes them."""
    if not stats_of_layers:
        return jnp.zeros((*shape, 0, cfg.num_experts_per_token), jnp.int16)
    return jnp.stack([one.expert_BSK for one in stats_of_layers], axis=2).astype(jnp.int16)


@functools.partial(jax.jit, static_argnums=(0, 1))
def encode(
    cfg: config.ModelConfig,
    execution: config.ExecutionConfig,
    weights: AnyWeights,
    features: model.Features,
) -> Float[Array, "B M D"]:
    """What stands at the slots of each row's features."""
    is_unstacked = isinstance(weights, UnstackedWeights)
    params = (weights.encoders if is_unstacked else weights.params)[
        model.encoders.kind_of(cfg, features)
    ]
    return model.encoders.encode(cfg, execution, params, features)


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames="with_routes", donate_argnums=3)
def prefill(
    cfg: config.ModelConfig,
    execution: config.ExecutionConfig,
    weights: AnyWeights,
    cache: Cache,
    row_B: Int[Array, "B"],
    tokens_BS: Int[Array, "B S"],
    start_B: Int[Array, "B"],
    last_B: Int[Array, "B"],
    targets_BS: Int[Array, "B S"] | None = None,
    inserted: Inserted | None = None,
    *,
    with_routes: bool = False,
) -> tuple[Float[Array, "B V"], Cache, Int[Array, "B S L K"] | None, Logprobs | None]:
    """Reads chunks of prompts, from position `start` of each row; the logits after token `last`.

    Rows are distinct. Those outside the cache are computed but written nowhere. Third, the experts
    of the tokens, with `with_routes`; fourth, the log-probability of each target after its token,
    where there are targets.
    """
    weights = unstacked.ready(cfg, execution, weights)
    hidden_BSD, cache, stats = forward(
        cfg, execution, weights, cache, tokens_BS, start_B, row_B, inserted
    )
    hidden_BD = hidden_BSD[jnp.arange(len(hidden_BSD)), last_B]
    found_BSLK = routes(cfg, stats, tokens_BS.shape) if with_routes else None
    found = None if targets_BS is None else _logprobs(cfg, weights, hidden_BSD, targets_BS)
    return logits(cfg, weights, hidden_BD), cache, found_BSLK, found


def _logprobs(
    cfg: config.ModelConfig,
    weights: UnstackedWeights,
    hidden_BSD: Float[Array, "B S D"],
    targets_BS: Int[Array, "B S"],
) -> Logprobs:
    """Takes the logits of one row at a time: they are the largest array."""
    return jax.lax.map(
        lambda row: logprobs.of(logits(cfg, weights, row[0]), row[1]), (hidden_BSD, targets_BS)
    )


@functools.partial(jax.jit, donate_argnums=0)
def copy_rows(
    cache: Cache,
    from_P: Int[Array, "P"],
    to_P: Int[Array, "P"],
    num_copies: Int[Array, ""],
) -> Cache:
    """The cache after the first `num_copies` of the rows `from` are copied to those of `to`."""

    def copy(place, cache: Cache) -> Cache:
        def of_array(x_BT: Array) -> Array:
            row_T = jax.lax.dynamic_index_in_dim(x_BT, from_P[place], keepdims=False)
            return jax.lax.dynamic_update_index_in_dim(x_BT, row_T, to_P[place], 0)

        return jax.tree.map(of_array, cache)

    return jax.lax.fori_loop(0, num_copies, copy, cache)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def decode(
    cfg: config.ModelConfig,
    execution: config.ExecutionConfig,
    weights: AnyWeights,
    cache: Cache,
    tokens_B: Int[Array, "B"],
    positions_B: Int[Array, "B"],
) -> tuple[Float[Array, "B V"], Cache, Int[Array, "B L K"]]:
    """Reads one token of every row; the logits after it, and its experts."""
    weights = unstacked.ready(cfg, execution, weights)
    tokens_B1 = tokens_B[:, None]
    hidden_B1D, cache, stats = forward(cfg, execution, weights, cache, tokens_B1, positions_B)
    found_B1LK = routes(cfg, stats, tokens_B1.shape)
    return logits(cfg, weights, hidden_B1D[:, 0]), cache, found_B1LK[:, 0]


@functools.partial(
    jax.jit,
    static_argnames=("cfg", "execution", "is_filtered", "with_routes"),
    donate_argnames=("cache", "state"),
)
def draw(
    cfg: config.ModelConfig,
    execution: config.ExecutionConfig,
    weights: AnyWeights,
    cache: Cache,
    tokens_B: Int[Array, "B"],
    positions_B: Int[Array, "B"],
    how: sampling.Rows,
    forced_NB: Int[Array, "N B"],
    state: processors.State | None = None,
    processing: processors.Rows | None = None,
    *,
    is_filtered: bool,
    with_routes: bool = False,
) -> tuple[Drawn, Cache, processors.State | None]:
    """The next tokens of every row, without returning to the host between the N steps.

    A token of `forced_NB` that is not negative replaces the one drawn there. `is_filtered` is as in
    `sampling.sample`. With `processing`, logits are processed; the state counts the tokens that are
    read.
    """
    weights = unstacked.ready(cfg, execution, weights)

    def step(carry, forced_B):
        cache, tokens_B, positions_B, how, state = carry
        logits_BV, cache, routes_BLK = decode(cfg, execution, weights, cache, tokens_B, positions_B)
        found = None
        if state is None or processing is None:
            drawn_B, logp_B = sampling.sample(logits_BV, how, is_filtered=is_filtered)
            tokens_B = jnp.where(forced_B < 0, drawn_B, forced_B)
        else:
            tokens_B, logp_B, found, state = processors.draw(
                logits_BV, tokens_B, state, processing, how, forced_B
            )
        how = how._replace(num_drawn_B=how.num_drawn_B + 1)
        seen = Drawn(tokens_B, logp_B, routes_BLK if with_routes else None, found)
        return (cache, tokens_B, positions_B + 1, how, state), seen

    first = (cache, tokens_B, positions_B, how, state)
    (cache, *_, state), drawn = jax.lax.scan(step, first, forced_NB)
    return drawn, cache, state


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def score(
    cfg: config.ModelConfig,
    execution: config.ExecutionConfig,
    weights: AnyWeights,
    cache: Cache,
    tokens_BS: Int[Array, "B S"],
    start_B: Int[Array, "B"],
    targets_BS: Int[Array, "B S"],
) -> tuple[Float[Array, "B S"], Int[Array, "B S"], Cache]:
    """Log-probability of each target after its token, and the most likely token there.

    Tokens are at positions start, start + 1, ...; row b continues cache row b.
    """
    weights = unstacked.ready(cfg, execution, weights)
    hidden_BSD, cache, _ = forward(cfg, execution, weights, cache, tokens_BS, start_B)

    def of_row(row):
        hidden_SD, targets_S = row
        logits_SV = logits(cfg, weights, hidden_SD)
        picked_S = jnp.take_along_axis(logits_SV, targets_S[:, None], axis=-1)[:, 0]
        return picked_S - jax.nn.logsumexp(logits_SV, axis=-1), jnp.argmax(logits_SV, axis=-1)

    # Logits of one row at a time: they are the largest array.
    logprob_BS, best_BS = jax.lax.map(of_row, (hidden_BSD, targets_BS))
    return logprob_BS, best_BS, cache
