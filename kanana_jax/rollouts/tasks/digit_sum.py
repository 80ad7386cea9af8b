"""Sums of digits modulo 10 in nine places: Sum mod 10: 3 + 8 + 1 . . . Steps: 3=3 8=1 1=2.

result_i = (result_{i-1} + digit_i) mod 10

A place of the problem and a step are four characters wide, and unused places are dots. So the
distance from a digit to its step is always the same, in problems of every length, and a model of
two small layers learns to write steps. It does not learn to do sums in its head.
"""

from kanana_jax.rollouts.tasks.problem import Family, result, whole

_BASE, _PLACES = 10, 9


def _draw(rng, size):
    return tuple(rng.randrange(_BASE) for _ in range(size))


def _ask(digits, language, rng):
    terms = " + ".join(map(str, digits))
    places = terms + " ." * ((4 * _PLACES - 1 - len(terms)) // 2)
    return f"Sum mod {_BASE}: {places}" if language == "en" else f"합을 {_BASE}으로: {places}"


def _step(digits, previous, i):
    before = whole(result(previous)) if i else 0
    return f"{digits[i]}={(before + digits[i]) % _BASE}"


FAMILY = Family(
    name="digit_sum", sizes=(3, 4, 5), draw=_draw, ask=_ask, step=_step, most_steps=_PLACES
)
