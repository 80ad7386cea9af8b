"""Speech tokens to sound as they come, for several streams at once.

Every token is decoded in the same shapes whatever comes with it, so sound in chunks equals sound in
one piece, bit for bit.

Letters: B streams, N tokens, T samples (640 a token).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kanana_jax.speech import codec, vocoder
from kanana_jax.speech.codec import Codec, CodecConfig


class State(NamedTuple):
    """What a stream's next token needs from those before it."""

    seen_BSD: Float[Array, "B S D"]  # codes
    left_BW: Float[Array, "B W"]  # of the vocoder's window


def begin(cfg: CodecConfig, num_streams: int) -> State:
    """Before the first token."""
    return State(codec.nothing_seen(cfg, num_streams), vocoder.silence(num_streams))


@functools.partial(jax.jit)
def speak(
    of: Codec, state: State, tokens_BN: Int[Array, "B N"], lengths_B: Int[Array, "B"]
) -> tuple[Float[Array, "B T"], State]:
    """Samples at 16 kHz of the first `lengths` tokens of each stream, followed by silence."""

    def step(state: State, token):
        place, token_B = token
        frames_BPM, seen_BSD = codec.decode_next(
            of.params, state.seen_BSD, of.book.code_CD[token_B]
        )
        left_BW, hops = state.left_BW, []
        for frame in range(codec.FRAMES_PER_TOKEN):
            hop_BH, left_BW = vocoder.next_hop(left_BW, frames_BPM[:, frame])
            hops.append(hop_BH)
        is_said_B1 = (place < lengths_B)[:, None]
        after = State(
            jnp.where(is_said_B1[..., None], seen_BSD, state.seen_BSD),
            jnp.where(is_said_B1, left_BW, state.left_BW),
        )
        return after, jnp.where(is_said_B1, jnp.concatenate(hops, axis=1), 0.0)

    places_N = jnp.arange(tokens_BN.shape[1])
    state, sound_NBT = jax.lax.scan(step, state, (places_N, tokens_BN.T))
    num_streams = len(tokens_BN)
    return jnp.moveaxis(sound_NBT, 0, 1).reshape(num_streams, -1), state
