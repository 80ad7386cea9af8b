"""The largest of numbers: Which is largest: 41 17 86? Step by step: 41:41 17:41 86:86.

result_i = max(result_{i-1}, number_i)
"""

from kanana_jax.rollouts.tasks.problem import Family, result, whole


def _draw(rng, size):
    return tuple(rng.sample(range(10, 100), size))


def _ask(numbers, language, rng):
    listed = " ".join(map(str, numbers))
    if language == "en":
        return f"Which is largest: {listed}?"
    return f"{listed} 중 가장 큰 수는?"


def _step(numbers, previous, i):
    before = whole(result(previous)) if i else 0
    return f"{numbers[i]}:{max(before, numbers[i])}"


FAMILY = Family(name="largest", sizes=(3, 4, 5), draw=_draw, ask=_ask, step=_step)
