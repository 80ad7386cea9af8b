"""A word backwards: Reverse acdb. The level is its number of letters."""

import random

from kanana_jax.rollouts import task
from kanana_jax.rollouts.environments import exact
from kanana_jax.rollouts.task import Task, TaskFamily
from kanana_jax.rollouts.tasks.problem import Language

_ALPHABET = "abcdefgh"


def _draw(rng: random.Random, language: Language, level: int) -> Task:
    word = "".join(rng.choices(_ALPHABET, k=level))
    if word == word[::-1]:  # its answer would be a copy
        word = word[:-1] + _ALPHABET[_ALPHABET.index(word[0]) - 1]
    answer = word[::-1]
    return Task(
        family="reversing",
        language=language,
        level=level,
        content=f"reversing {word}",
        messages=(task.user(f"Reverse {word}." if language == "en" else f"거꾸로 쓰면? {word}"),),
        goal={"answer": answer},
        oracle=(task.assistant(answer),),
    )


FAMILY = TaskFamily(
    name="reversing",
    levels=(3, 4, 5),
    more_levels=tuple(range(6, 17)),
    draw=_draw,
    verify=exact.verify,
)
