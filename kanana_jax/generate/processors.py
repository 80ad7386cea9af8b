"""Logits processors: what a request changes in the model's logits before a token is drawn.

    z <- z / r where z > 0, else z r      of tokens in the prompt or drawn     (arXiv:1909.05858)
    z <- z - f n - p [n > 0] + bias       n: how often the token was drawn
    z <- -inf                             ends before min_tokens; what a constraint does not allow

Rows that ask for nothing keep their logits bit for bit.

Letters: B rows, V vocabulary, W words of 32 bits.
"""

import dataclasses
import functools
import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from kanana_jax.config import ConfigError
from kanana_jax.generate import logprobs, sampling
from kanana_jax.generate.logprobs import Logprobs

_ALL = np.uint32(2**32 - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processors:
    """The processors of one request; the defaults change nothing."""

    repetition_penalty: float = 1.0  # r
    frequency_penalty: float = 0.0  # f
    presence_penalty: float = 0.0  # p
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token, what is added to its logit)
    min_tokens: int = 0

    def __post_init__(self):
        numbers = (self.frequency_penalty, self.presence_penalty)
        biases = [bias for _, bias in self.logit_bias]
        for name, is_good, expected in (
            ("repetition_penalty", 0.01 <= self.repetition_penalty <= 100, "in [0.01, 100]"),
            ("penalties", all(map(math.isfinite, numbers)), "finite"),
            ("logit_bias", all(abs(one) <= 1000 for one in biases), "in [-1000, 1000]"),
            ("min_tokens", 0 <= self.min_tokens < 2**31, "in [0, 2^31)"),
        ):
            if not is_good:
                raise ConfigError(f"{name} must be {expected}, got {self}")


NOTHING = Processors()


class State(NamedTuple):
    """What the rows of an engine keep on the device."""

    bias_BV: Float[Array, "B V"]
    is_end_BV: Bool[Array, "B V"]
    is_in_prompt_BV: Bool[Array, "B V"]
    num_drawn_BV: Int[Array, "B V"]


class Rows(NamedTuple):
    """The processors of a batch, and the tokens that constraints allow next, as bits."""

    is_used_B: Bool[Array | np.ndarray, "B"]
    repetition_penalty_B: Float[Array | np.ndarray, "B"]
    frequency_penalty_B: Float[Array | np.ndarray, "B"]
    presence_penalty_B: Float[Array | np.ndarray, "B"]
    min_tokens_B: Int[Array | np.ndarray, "B"]
    allowed_BW: UInt32[Array | np.ndarray, "B W"]
    has_logprobs: Bool[Array | np.ndarray, ""]  # whether any row is asked for them


def rows(
    processors: Sequence[Processors],
    allowed: Sequence[UInt32[np.ndarray, "W"] | None],
    vocab_size: int,
    *,
    has_logprobs: bool,
) -> Rows:
    """Arrays on the host: a jitted function takes them to the device in one go. None allows all."""
    allowed_BW = np.full((len(processors), num_words(vocab_size)), _ALL)
    for row, allowed_W in enumerate(allowed):
        if allowed_W is not None:
            allowed_BW[row] = allowed_W
    return Rows(
        is_used_B=np.array(
            [
                one != NOTHING or mask is not None
                for one, mask in zip(processors, allowed, strict=True)
            ]
        ),
        repetition_penalty_B=np.array([one.repetition_penalty for one in processors], np.float32),
        frequency_penalty_B=np.array([one.frequency_penalty for one in processors], np.float32),
        presence_penalty_B=np.array([one.presence_penalty for one in processors], np.float32),
        min_tokens_B=np.array([one.min_tokens for one in processors], np.int32),
        allowed_BW=allowed_BW,
        has_logprobs=np.array(has_logprobs),
    )


def num_words(vocab_size: int) -> int:
    """Words of 32 bits that hold a bit per token."""
    return -(-vocab_size // 32)


def init(num_rows: int, vocab_size: int) -> State:
    """Rows without bias, ends and tokens."""
    shape = (num_rows, vocab_size)
    return State(
        jnp.zeros(shape), jnp.zeros(shape, bool), jnp.zeros(shape, bool), jnp.zeros(shape, int)
    )


def begin(
    state: State,
    row: int,
    processors: Processors,
    prompt: Sequence[int],
    end_ids: Collection[int],
) -> State:
    """The state in which `row` begins a request that ends at one of `end_ids`."""
    vocab_size = state.bias_BV.shape[1]
    bias_V = np.zeros(vocab_size, np.float32)
    is_end_V, is_in_prompt_V = np.zeros((2, vocab_size), bool)
    for token, bias in processors.logit_bias:
        bias_V[token] = bias
    is_end_V[list(end_ids)] = True
    is_in_prompt_V[np.asarray(prompt, int)] = True
    return _set_row(state, np.int32(row), bias_V, is_end_V, is_in_prompt_V)


@functools.partial(jax.jit, donate_argnums=0)
def _set_row(state: State, row: Array, bias_V: Array, is_end_V: Array, is_in_prompt_V: Array):
    counts_V = jnp.zeros_like(state.num_drawn_BV[0])
    new = State(bias_V, is_end_V, is_in_prompt_V, counts_V)
    return jax.tree.map(lambda old_BV, new_V: old_BV.at[row].set(new_V), state, new)


def counted(state: State, tokens_B: Int[Array, "B"]) -> State:
    """The state after one more token of every row."""
    rows_B = jnp.arange(len(tokens_B))
    return state._replace(num_drawn_BV=state.num_drawn_BV.at[rows_B, tokens_B].add(1))


def processed(
    logits_BV: Float[Array, "B V"], state: State, how: Rows, num_drawn_B: Int[Array, "B"]
) -> Float[Array, "B V"]:
    """The logits to draw from; each row keeps at least one token that its constraint allows."""
    counts_BV = state.num_drawn_BV
    is_repeated_BV = state.is_in_prompt_BV | (counts_BV > 0)
    r_B1 = how.repetition_penalty_B[:, None]
    z_BV = jnp.where(
        is_repeated_BV, jnp.where(logits_BV > 0, logits_BV / r_B1, logits_BV * r_B1), logits_BV
    )
    z_BV -= how.frequency_penalty_B[:, None] * counts_BV
    z_BV += state.bias_BV - how.presence_penalty_B[:, None] * (counts_BV > 0)
    is_allowed_BV = _bits(jnp.asarray(how.allowed_BW))[:, : z_BV.shape[1]]
    is_early_BV = state.is_end_BV & (num_drawn_B < how.min_tokens_B)[:, None]
    is_kept_BV = is_allowed_BV & ~is_early_BV
    # A constraint that allows nothing but the end takes precedence over min_tokens.
    is_kept_BV = jnp.where(is_kept_BV.any(axis=-1, keepdims=True), is_kept_BV, is_allowed_BV)
    return jnp.where(how.is_used_B[:, None], jnp.where(is_kept_BV, z_BV, -jnp.inf), logits_BV)


def _bits(words_BW: UInt32[Array, "B W"]) -> Bool[Array, "B N"]:
    bits_BWN = (words_BW[..., None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
    return bits_BWN.reshape(len(words_BW), -1) == 1


def sample(
    logits_BV: Float[Array, "B V"], state: State, how: Rows, sampled: sampling.Rows
) -> tuple[Int[Array, "B"], Float[Array, "B"], Logprobs]:
    """What `sampling.sample` draws from processed logits, and the tokens' log-probabilities.

    The log-probabilities are zeros where no row is asked for them.
    """
    z_BV = processed(logits_BV, state, how, jnp.asarray(sampled.num_drawn_B))
    token_B, logp_B = sampling.sample(z_BV, sampled, is_filtered=True)
    none = jax.tree.map(jnp.zeros_like, jax.eval_shape(logprobs.of, logits_BV, token_B))
    found = jax.lax.cond(how.has_logprobs, logprobs.of, lambda *_: none, logits_BV, token_B)
    return token_B, logp_B, found


@functools.partial(jax.jit, donate_argnums=2)
def draw(
    logits_BV: Float[Array, "B V"],
    read_B: Int[Array, "B"],
    state: State,
    how: Rows,
    sampled: sampling.Rows,
    forced_B: Int[Array, "B"],
) -> tuple[Int[Array, "B"], Float[Array, "B"], Logprobs, State]:
    """As `sample`, after the state has counted the tokens `read_B`.

    A token of `forced_B` that is not negative replaces the one drawn.
    """
    state = counted(state, read_B)
    token_B, logp_B, found = sample(logits_BV, state, how, sampled)
    return jnp.where(forced_B < 0, token_B, forced_B), logp_B, found, state


@jax.jit
def sample_first(
    logits_NV: Float[Array, "N V"],
    row_B: Int[Array, "B"],
    state: State,
    state_row_B: Int[Array, "B"],
    how: Rows,
    sampled: sampling.Rows,
) -> tuple[Int[Array, "B"], Float[Array, "B"], Logprobs]:
    """As `sample`, from the logits `row_B` of several prompts; each has the state `state_row_B`."""
    of_rows = jax.tree.map(lambda x_BV: x_BV[state_row_B], state)
    return sample(logits_NV[row_B], of_rows, how, sampled)
