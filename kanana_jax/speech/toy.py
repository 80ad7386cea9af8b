"""Toy utterances: short sentences of few words, said by voices that are trained on or held out.

    en    three red boats wait by the old bridge         ko    빨간 배 세 척 ...

Sentences are drawn from small lists, so a model may learn to spell what it hears with little data;
its scores say nothing about open speech.
"""

import multiprocessing
import os
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int16

from kanana_jax.speech import mel, voices
from kanana_jax.speech.errors import SpeechError
from kanana_jax.speech.voices import Language, Voice

_WORDS: dict[Language, tuple[tuple[str, ...], ...]] = {
    "en": (
        ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
        ("red", "blue", "green", "old", "new", "small", "heavy", "quiet"),
        ("boats", "birds", "letters", "lamps", "horses", "doors", "apples", "stones"),
        ("wait", "fall", "turn", "sleep", "arrive", "shine"),
        ("at home", "by the bridge", "in the garden", "near the river", "after rain", "today"),
    ),
    "ko": (
        ("오늘", "어제", "내일", "아침에", "저녁에", "가끔"),
        ("빨간", "파란", "작은", "오래된", "새로운", "조용한"),
        ("배가", "새가", "편지가", "나무가", "고양이가", "기차가"),
        ("다리 앞에", "강가에", "정원에", "집 뒤에", "바다에", "마을에"),
        ("하나", "둘", "셋", "넷", "다섯", "여섯"),
        ("있다", "온다", "보인다", "남는다", "멈춘다"),
    ),
}
_CHUNK = 128  # utterances that a process speaks at a time


class Utterance(NamedTuple):
    """A text, who says it, its sound, and features: a whole number of tokens long."""

    text: str
    voice: Voice
    samples_T: Int16[np.ndarray, "T"]
    mel_FM: Float[np.ndarray, "F M"]

    @property
    def seconds(self) -> float:
        return len(self.mel_FM) / mel.FRAMES_PER_SECOND


def sentence(language: Language, rng: random.Random) -> str:
    """One of the language's sentences."""
    return " ".join(rng.choice(words) for words in _WORDS[language])


def utterances(
    count: int, *, seed: int, variants: Sequence[str], num_processes: int | None = None
) -> Iterator[Utterance]:
    """The first utterances of a seed, half of them Korean, each in a random voice.

    SpeechError where a process cannot speak.
    """
    parts = [
        (seed, first, min(_CHUNK, count - first), tuple(variants))
        for first in range(0, count, _CHUNK)
    ]
    num_processes = min(num_processes or os.cpu_count() or 1, len(parts))
    # A fresh process for each part: only what espeak-ng says first is the same every time.
    with multiprocessing.get_context("spawn").Pool(num_processes, maxtasksperchild=1) as pool:
        for spoken in pool.imap(_part, parts):
            if isinstance(spoken, str):
                raise SpeechError(spoken)
            yield from spoken


def _part(of: tuple[int, int, int, tuple[str, ...]]) -> list[Utterance] | str:
    seed, first, count, variants = of
    rng = random.Random(f"toy speech {seed} {first}")
    found = []
    for place in range(count):
        language: Language = "ko" if (first + place) % 2 else "en"
        text, voice = sentence(language, rng), voices.drawn(language, variants, rng)
        try:
            samples = voices.speak(text, voice)
        except ModuleNotFoundError as error:
            return str(error)
        features = mel.log_mel(samples)
        whole = len(features) // mel.FRAMES_PER_TOKEN * mel.FRAMES_PER_TOKEN
        rounded = np.round(samples * (2**15 - 1)).astype(np.int16)
        found.append(Utterance(text, voice, rounded, features[:whole].astype(np.float16)))
    return found
