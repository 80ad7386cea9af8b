"""Sound from tokens: the same in chunks as whole, and near what the frames ask for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kanana_jax.speech import codec, detokeniser, mel, vocoder

pytestmark = pytest.mark.slow

CFG = codec.CodecConfig(num_codes=16, width=16)
LENGTHS = jnp.array([5, 3])


@pytest.fixture(scope="module")
def spoken():
    """A codec, tokens, and their sound in one piece."""
    of = codec.init(CFG, jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (2, 6), 0, CFG.num_codes)
    sound, _ = detokeniser.speak(of, detokeniser.begin(CFG, 2), tokens, LENGTHS)
    return of, tokens, np.asarray(sound)


def test_chunks_are_the_whole_bit_for_bit(spoken):
    of, tokens, whole = spoken
    state, parts = detokeniser.begin(CFG, 2), []
    for first, last in ((0, 2), (2, 4), (4, 6)):
        part, state = detokeniser.speak(of, state, tokens[:, first:last], LENGTHS - first)
        parts.append(part)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_behind_the_last_token_is_silence(spoken):
    _, _, whole = spoken
    per_token = mel.SAMPLES_PER_TOKEN
    assert not whole[1, 3 * per_token :].any() and not whole[0, 5 * per_token :].any()
    assert np.abs(whole[1, : 3 * per_token]).max() > 0.01


def test_a_stream_sounds_the_same_beside_others(spoken):
    of, tokens, whole = spoken
    other = tokens.at[1].set(3)
    sound, _ = detokeniser.speak(of, detokeniser.begin(CFG, 2), other, LENGTHS)
    np.testing.assert_array_equal(sound[0], whole[0])


def test_frames_are_heard_again_in_the_sound_of_them():
    """Two tones: loud features of the sound are near those that it was made from."""
    time = np.arange(8000) / mel.SAMPLE_RATE
    sound = 0.3 * np.sin(2 * np.pi * 440 * time) + 0.2 * np.sin(2 * np.pi * 1320 * time)
    wanted_FM = mel.log_mel(sound)

    def step(left, frame_M):
        hop, left = vocoder.next_hop(left, frame_M[None])
        return left, hop[0]

    _, hops = jax.lax.scan(step, vocoder.silence(1), jnp.asarray(wanted_FM))
    again_FM = mel.log_mel(np.asarray(hops).ravel()[mel.WINDOW // 2 :])
    frames = slice(4, len(again_FM) - 4)
    loud = wanted_FM[frames] > wanted_FM.max() - 0.5
    missed = np.abs(again_FM[frames] - wanted_FM[: len(again_FM)][frames])[loud]
    assert missed.mean() < 0.05  # units of 4 decades: 2 dB
