"""Toy speech by espeak-ng, where espeakng-loader is installed."""

import importlib.util
import random

import numpy as np
import pytest

from kanana_jax.speech import voices
from kanana_jax.speech.errors import SpeechError
from kanana_jax.speech.voices import Voice

pytestmark = pytest.mark.slow

needs_espeak = pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None,
    reason="needs pip install 'kanana_jax[speech]'",
)


def test_no_voice_is_both_trained_and_held_out():
    assert not set(voices.TRAINED) & set(voices.HELD_OUT)
    drawn = {voices.drawn("ko", voices.HELD_OUT, random.Random(n)).variant for n in range(40)}
    assert drawn == set(voices.HELD_OUT)


def test_an_unknown_variant_is_refused():
    with pytest.raises(SpeechError, match="got 'm99'"):
        voices.speak("a", Voice(language="en", variant="m99"))


@needs_espeak
@pytest.mark.parametrize(
    ("language", "short", "longer"),
    [("en", "one", "one two three"), ("ko", "하나", "하나 둘 셋 넷")],
)
def test_longer_text_is_longer_sound(language, short, longer):
    few, many = (voices.speak(text, Voice(language=language)) for text in (short, longer))
    assert 3000 < len(few) < 0.8 * len(many)
    assert 0.05 < np.abs(few).max() <= 1


@needs_espeak
def test_faster_is_shorter():
    slow, fast = (
        voices.speak("a long way home", Voice(language="en", words_per_minute=n))
        for n in (120, 240)
    )
    assert len(fast) < 0.7 * len(slow)
