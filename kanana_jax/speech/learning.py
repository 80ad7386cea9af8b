"""Training of the codec on utterances, by Adam on pieces of one length.

Letters: B pieces, N tokens of a piece, F frames, M bands.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Float

from kanana_jax.speech import codec
from kanana_jax.speech.codec import Codec, CodecConfig

PIECE_TOKENS = 32
_BATCH = 32
_RATE = 2e-3


class Measured(NamedTuple):
    """What a codec does to utterances that it was not trained on."""

    error: float  # mean square, of features whose variance is `variance`
    variance: float
    codes_used: float  # share of the codebook
    codebook_perplexity: float  # over its size


def train(
    cfg: CodecConfig,
    mels: Sequence[Float[np.ndarray, "F M"]],
    *,
    num_steps: int,
    seed: int,
    report: Callable[[int, float], None] = lambda step, error: None,
) -> Codec:
    """A codec trained on these features; `report` is called now and then."""
    rng = np.random.default_rng(seed)
    of = codec.init(cfg, jax.random.key(seed))
    optimizer = optax.adam(optax.cosine_decay_schedule(_RATE, num_steps))
    state = optimizer.init(of.params)
    grad = jax.grad(functools.partial(codec.loss, cfg), has_aux=True)

    @jax.jit
    def step(of: Codec, state, mel_BFM, is_sound_BN, key):
        gradient, (seen, z_BND) = grad(of.params, of.book, mel_BFM, is_sound_BN)
        updates, state = optimizer.update(gradient, state)
        book = codec.followed(cfg, of.book, z_BND, is_sound_BN, key)
        params: Any = optax.apply_updates(of.params, updates)
        return Codec(params, book), state, seen

    for number in range(num_steps):
        pieces = pieces_of([mels[n] for n in rng.integers(0, len(mels), _BATCH)], rng)
        key = jax.random.fold_in(jax.random.key(seed), number)
        of, state, seen = step(of, state, *pieces, key)
        if number % 100 == 0 or number == num_steps - 1:
            report(number, float(seen.error))
    return of


def measure(cfg: CodecConfig, of: Codec, mels: Sequence[Float[np.ndarray, "F M"]]) -> Measured:
    """Measures a codec on the first piece of each of these utterances."""
    mel_BFM, is_sound_BN = pieces_of(mels, None)
    _, (seen, _) = codec.loss(cfg, of.params, of.book, mel_BFM, is_sound_BN)
    is_frame_BF = np.repeat(is_sound_BN, codec.FRAMES_PER_TOKEN, axis=1)
    use = codec.use(seen.counts_C)
    return Measured(float(seen.error), float(mel_BFM[is_frame_BF].var()), **use)


def pieces_of(
    mels: Sequence[np.ndarray], rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    """(features (B, F, M), whether a token is sound (B, N)): a piece of each, from a random
    place, or from the beginning without `rng`; shorter ones are padded with zeros."""
    num_frames = PIECE_TOKENS * codec.FRAMES_PER_TOKEN
    mel_BFM = np.zeros((len(mels), num_frames, mels[0].shape[1]), np.float32)
    is_sound_BN = np.zeros((len(mels), PIECE_TOKENS), bool)
    for place, whole in enumerate(mels):
        latest = max(0, (len(whole) - num_frames) // codec.FRAMES_PER_TOKEN)
        first = 0 if rng is None else int(rng.integers(0, latest + 1)) * codec.FRAMES_PER_TOKEN
        piece = whole[first : first + num_frames]
        mel_BFM[place, : len(piece)] = piece
        is_sound_BN[place, : len(piece) // codec.FRAMES_PER_TOKEN] = True
    return mel_BFM, is_sound_BN


def tokens(
    of: Codec, mels: Sequence[Float[np.ndarray, "F M"]], *, at_once: int = 64
) -> list[list[int]]:
    """The codes of utterances, as `codec.encode` gives them for each alone."""
    longest = max(map(len, mels))
    found = []
    for first in range(0, len(mels), at_once):
        few = mels[first : first + at_once]
        mel_BFM = np.zeros((at_once, longest + codec.FRAMES_PER_TOKEN, few[0].shape[1]), np.float32)
        for place, one in enumerate(few):
            mel_BFM[place, : len(one)] = one
        # The encoder takes zeros after an utterance for nothing, as at its own ends.
        codes_BN = np.asarray(codec.encode(of, mel_BFM))
        found += [
            codes_N[: len(one) // codec.FRAMES_PER_TOKEN].tolist()
            for one, codes_N in zip(few, codes_BN, strict=False)
        ]
    return found
