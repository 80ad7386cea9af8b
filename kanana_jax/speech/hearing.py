"""Sound to the codes that a decoder reads in its place."""

import numpy as np
from jaxtyping import Float

from kanana_jax.speech import codec, mel
from kanana_jax.speech.codec import Codec

_FEWEST_TOKENS = 32


def codes(of: Codec, samples_T: Float[np.ndarray, "T"]) -> list[int]:
    """A code for each whole 40 ms of sound at 16 kHz, like those that the decoder was trained on.

    ValueError where `mel.log_mel` raises one.
    """
    features_FM = mel.log_mel(samples_T)
    num_tokens = len(features_FM) // codec.FRAMES_PER_TOKEN
    # The encoder takes zeros after the end for nothing; few lengths are compiled.
    padded = max(_FEWEST_TOKENS, 1 << (num_tokens - 1).bit_length())
    mel_BFM = np.zeros((1, padded * codec.FRAMES_PER_TOKEN, mel.NUM_BANDS), np.float32)
    num_frames = num_tokens * codec.FRAMES_PER_TOKEN
    mel_BFM[0, :num_frames] = features_FM[:num_frames]
    return np.asarray(codec.encode(of, mel_BFM))[0, :num_tokens].tolist()
