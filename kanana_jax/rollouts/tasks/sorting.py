"""Digits in order: Sort 5 2 9. Step by step: 5:5 2:25 9:259.

result_i = result_{i-1} with digit_i put where it belongs
"""

from kanana_jax import korean
from kanana_jax.rollouts.tasks.problem import Family, result


def _draw(rng, size):
    return tuple(rng.randrange(10) for _ in range(size))


def _ask(digits, language, rng):
    listed = " ".join(map(str, digits))
    if language == "en":
        return f"Sort {listed}."
    return f"{korean.with_particle(listed, '을')} 작은 수부터 쓰면?"


def _step(digits, previous, i):
    """As text: if what was written is out of order, the new digit still has a place."""
    new, before = str(digits[i]), result(previous)
    place = next((k for k, old in enumerate(before) if old > new), len(before))
    return f"{new}:{before[:place]}{new}{before[place:]}"


FAMILY = Family(name="sorting", sizes=(3, 4, 5), draw=_draw, ask=_ask, step=_step)
