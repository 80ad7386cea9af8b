"""Sums modulo a base: What is 3+1+2 mod 5? Step by step: +3=3 +1=4 +2=1.

result_i = (result_{i-1} + digit_i) mod base
"""

from kanana_jax import korean
from kanana_jax.rollouts.tasks.problem import Family, result, whole

BASE = 5


def _draw(rng, size):
    return tuple(rng.randrange(BASE) for _ in range(size))


def _ask(digits, language, rng):
    terms = "+".join(map(str, digits))
    if language == "en":
        return f"What is {terms} mod {BASE}?"
    by = korean.with_particle(str(BASE), "으로")
    return f"{korean.with_particle(terms, '을')} {by} 나눈 나머지는?"


def _step(digits, previous, i):
    before = whole(result(previous)) if i else 0
    return f"+{digits[i]}={(before + digits[i]) % BASE}"


FAMILY = Family(name="chain_sum", sizes=(3, 4, 5), draw=_draw, ask=_ask, step=_step)
