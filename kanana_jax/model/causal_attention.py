"""What latent and grouped-query attention share: which keys a query sees, in training and decoding.

Letters: B batch or rows, S queries, T keys or cache length, H query heads, G key heads, K query and
key width, U value width.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

import pallas_kernels
from kanana_jax.config import ExecutionConfig, ModelConfig
from kanana_jax.model import rope, xla_hints
from kanana_jax.parallel import local


class Moved(NamedTuple):
    """Numbers of one token that a layer's attention moves between devices."""

    over_context: int  # to the queries that come later
    is_split_over_tensor: bool  # whether each device of tensor moves those of its heads only
    summed_over_tensor: int  # in the gradients of what its products read


def query_ids(segment_ids_BS: Int[Array, "B S"]) -> Int[Array, "B S"]:
    """Ids of queries among keys of `segment_ids_BS`: padding (segment 0) sees nothing.

    Padding asks with an id that no key has. The id is large because kernels skip blocks by the
    smallest and largest ids in them, and padding comes last.
    """
    return jnp.where(segment_ids_BS == 0, jnp.iinfo(jnp.int32).max, segment_ids_BS)


def attend(
    cfg: ModelConfig,
    execution: ExecutionConfig,
    q_BSHK: Float[Array, "B S H K"],
    k_BTGK: Float[Array, "B T G K"],
    v_BTGU: Float[Array, "B T G U"],
    query_ids_BS: Int[Array, "B S"],
    key_ids_BS: Int[Array, "B S"],
) -> tuple[Float[Array, "B S H U"], Float[Array, "B H"]]:
    """One device's queries on keys of the whole sequence, as `local.gather_past` joins them.

    Returns the output and each head's largest logit over all devices of the context axis. Every
    device does the causal work of the last one: later keys are there but carry the id of padding.
    """
    key_ids_BT, num_later = local.gather_past(key_ids_BS, "context", 1)
    key_ids_BT = jnp.where(jnp.arange(key_ids_BT.shape[1]) < num_later, 0, key_ids_BT)
    out_BSHU, max_logits_BH = pallas_kernels.flash_attention(
        q_BSHK,
        k_BTGK,
        v_BTGU,
        segment_ids=(query_ids_BS, key_ids_BT),
        causal=True,
        scale=rope.softmax_scale(cfg),
        implementation=execution.attention_implementation,
        deterministic=execution.deterministic,
    )
    return out_BSHU, local.largest(max_logits_BH, "context")


def store(cache: Any, new: Any, positions_BS: Int[Array, "B S"], row_B: Any) -> tuple[Any, Any]:
    """Writes what decoding keeps of new tokens into arrays (rows, T, ...) of one layer.

    Returns the updated cache, and each sequence's row of it. `row_B` says which row each
    sequence has; None: its own. A position beyond the cache is not written.
    """
    to_B = jnp.arange(positions_BS.shape[0]) if row_B is None else row_B
    cache = jax.tree.map(
        lambda old, x: old.at[to_B[:, None], positions_BS].set(x, unique_indices=True), cache, new
    )
    return cache, cache if row_B is None else jax.tree.map(lambda x: x[row_B], cache)


def cached_weights(
    cfg: ModelConfig,
    score_BHST: Float[Array, "B H S T"],
    positions_BS: Int[Array, "B S"],
    dtype: jnp.dtype,
) -> Float[Array, "B H S T"]:
    """The softmax, over the keys that are seen, of float32 products of queries and cached keys."""
    score_BHST = xla_hints.keep_score_layout(score_BHST)
    is_seen_BST = jnp.arange(score_BHST.shape[-1]) <= positions_BS[..., None]
    score_BHST = jnp.where(is_seen_BST[:, None], score_BHST * rope.softmax_scale(cfg), -jnp.inf)
    return jax.nn.softmax(score_BHST, axis=-1).astype(dtype)
