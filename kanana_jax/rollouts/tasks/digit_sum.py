"""Sums of different digits, modulo 10: What is 3+8+1 mod 10? Step by step: +3=3 +8=1 +1=2.

result_i = (result_{i-1} + digit_i) mod 10

No digit comes twice, so what stands behind the one that was taken up last is the next one. A small
model learns that at any length, where sums of equal digits ask it to count.
"""

from kanana_jax import korean
from kanana_jax.rollouts.tasks.problem import Family, result, whole

_BASE = 10


def _draw(rng, size):
    return tuple(rng.sample(range(_BASE), size))


def _ask(digits, language, rng):
    terms = "+".join(map(str, digits))
    if language == "en":
        return f"What is {terms} mod {_BASE}?"
    by = korean.with_particle(str(_BASE), "으로")
    return f"{korean.with_particle(terms, '을')} {by} 나눈 나머지는?"


def _step(digits, previous, i):
    before = whole(result(previous)) if i else 0
    return f"+{digits[i]}={(before + digits[i]) % _BASE}"


FAMILY = Family(
    name="digit_sum", sizes=(3, 4, 5, 6), draw=_draw, ask=_ask, step=_step, most_steps=9
)
