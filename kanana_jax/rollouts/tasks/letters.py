"""How often a letter occurs in a word: How many a in bacab? Step by step: b:0 a:1 c:1 a:2 b:2.

result_i = result_{i-1} + [letter_i is the one asked for]
"""

from kanana_jax.rollouts.tasks.problem import Family, result, whole

_ALPHABET = "abc"


def _draw(rng, size):
    """The letter asked for, then those of the word, by their places in the alphabet."""
    return tuple(rng.randrange(len(_ALPHABET)) for _ in range(size + 1))


def _ask(numbers, language, rng):
    asked, *word = (_ALPHABET[number] for number in numbers)
    if language == "en":
        return f"How many {asked} in {''.join(word)}?"
    return f"{''.join(word)}에서 {asked}의 개수는?"


def _step(numbers, previous, i):
    asked, *word = numbers
    before = whole(result(previous)) if i else 0
    return f"{_ALPHABET[word[i]]}:{before + (word[i] == asked)}"


FAMILY = Family(
    name="letters",
    sizes=(4, 5, 6),
    draw=_draw,
    ask=_ask,
    step=_step,
)
