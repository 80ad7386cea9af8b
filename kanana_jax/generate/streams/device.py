"""The device's side of spoken streams: a turn draws tokens for some rows and turns them into sound.

Letters: A streams of a turn, N tokens, T samples, C codes, V ids that may be drawn (C and the end).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Int16

from kanana_jax import config, model
from kanana_jax.generate import decoder, sampling, unstacked
from kanana_jax.generate.decoder import Cache
from kanana_jax.generate.unstacked import AnyWeights, UnstackedWeights
from kanana_jax.speech import detokeniser
from kanana_jax.speech.codec import Codec
from kanana_jax.speech.vocabulary import Vocabulary


class Rows(NamedTuple):
    """The streams of a turn; a row beyond the cache stands for none."""

    row_A: Int[np.ndarray, "A"]
    tokens_A: Int[np.ndarray, "A"]  # drawn last, or the prompt's last
    positions_A: Int[np.ndarray, "A"]
    is_new_A: Bool[np.ndarray, "A"]  # whether nothing has sounded yet


class Said(NamedTuple):
    """What a turn drew: tokens up to the end, the number of codes, and their sound."""

    tokens_AN: Int[Array | np.ndarray, "A N"]
    lengths_A: Int[Array | np.ndarray, "A"]
    sound_AT: Int16[Array | np.ndarray, "A T"]


@functools.partial(
    jax.jit,
    static_argnames=("cfg", "execution", "vocabulary", "num_tokens"),
    donate_argnames=("cache", "sounding"),
)
def turn(
    cfg: config.ModelConfig,
    execution: config.ExecutionConfig,
    vocabulary: Vocabulary,
    weights: AnyWeights,
    codec: Codec,
    cache: Cache,
    sounding: detokeniser.State,
    rows: Rows,
    how: sampling.Rows,
    *,
    num_tokens: int,
) -> tuple[Said, Cache, detokeniser.State]:
    """The next tokens of these rows, and the sound of those that are codes.

    After its end of speech a row keeps drawing; none of that is heard.
    """
    weights = unstacked.ready(cfg, execution, weights)
    head, row_A = _speech_head(weights, vocabulary), jnp.asarray(rows.row_A)

    def step(carry, _):
        cache, tokens_A, positions_A, how = carry
        hidden_A1D, cache, _ = decoder.forward(
            cfg, execution, weights, cache, tokens_A[:, None], positions_A, row_A
        )
        logits_AV = model.logits(cfg, head, hidden_A1D[:, 0])
        drawn_A, _ = sampling.sample(logits_AV, how, is_filtered=False)
        how = how._replace(num_drawn_B=how.num_drawn_B + 1)
        is_end_A = drawn_A == vocabulary.num_codes
        tokens_A = jnp.where(is_end_A, vocabulary.end, drawn_A + vocabulary.first)
        return (cache, tokens_A, positions_A + 1, how), (drawn_A, tokens_A)

    first = cache, rows.tokens_A, rows.positions_A, how
    (cache, *_), (drawn_NA, tokens_NA) = jax.lax.scan(step, first, length=num_tokens)
    drawn_AN = drawn_NA.T
    is_code_AN = jnp.cumprod(drawn_AN != vocabulary.num_codes, axis=1)
    lengths_A = is_code_AN.sum(axis=1)
    before = jax.tree.map(lambda x: _of_rows(x, rows), sounding)
    codes_AN = jnp.minimum(drawn_AN, vocabulary.num_codes - 1)
    sound_AT, after = detokeniser.speak(codec, before, codes_AN, lengths_A)
    sounding = jax.tree.map(
        lambda all_rows, x: all_rows.at[row_A].set(x, mode="drop"), sounding, after
    )
    pcm_AT = jnp.round(sound_AT * (2**15 - 1)).astype(jnp.int16)
    return Said(tokens_NA.T, lengths_A, pcm_AT), cache, sounding


def _speech_head(weights: UnstackedWeights, vocabulary: Vocabulary) -> model.Params:
    """The model's head, for codes and the end alone."""
    codes = slice(vocabulary.first, vocabulary.first + vocabulary.num_codes)
    end = slice(vocabulary.end, vocabulary.end + 1)
    head_DV = weights.head_DV
    if head_DV is None:
        return {"embed": jnp.concatenate([weights.embed_VD[codes], weights.embed_VD[end]])}
    return {"head": jnp.concatenate([head_DV[:, codes], head_DV[:, end]], axis=1)}


def _of_rows(x: Array, rows: Rows) -> Array:
    """The state of these rows; zero where nothing has sounded."""
    is_new = jnp.expand_dims(rows.is_new_A, tuple(range(1, x.ndim)))
    return jnp.where(is_new, 0, x[rows.row_A])
