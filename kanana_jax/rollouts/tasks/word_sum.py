"""Gains and losses in words: Mina has 5 pens. She gets 3 and loses 2. How many?

step_i = total_{i-1} + change_i = total_i
"""

from kanana_jax import korean
from kanana_jax.rollouts.tasks.problem import Family, result, whole

LARGEST = 20  # of all totals
_NAMES = (("Mina", "미나"), ("Jun", "준"), ("Sora", "소라"), ("Minsu", "민수"), ("Hana", "하나"))
_THINGS = (("pens", "펜"), ("figs", "감"), ("eggs", "알"), ("maps", "지도"), ("nuts", "밤"))


def _draw(rng, size):
    """The start, and every change with its sign."""
    total = rng.randint(1, 9)
    numbers = [total]
    while len(numbers) <= size:
        change = rng.choice((-1, 1)) * rng.randint(1, 9)
        if 0 <= total + change <= LARGEST:
            numbers.append(change)
            total += change
    return tuple(numbers)


def _ask(numbers, language, rng):
    start, *changes = numbers
    name, thing = rng.choice(_NAMES), rng.choice(_THINGS)
    if language == "en":
        told = [f"{'gets' if change > 0 else 'loses'} {abs(change)}" for change in changes]
        return f"{name[0]} has {start} {thing[0]}, {', '.join(told)}. How many?"
    told = [f"{abs(change)}개를 {'받' if change > 0 else '잃'}" for change in changes]
    ends = [*["고"] * (len(changes) - 1), "으면 몇 개?"]
    heard = " ".join(one + end for one, end in zip(told, ends, strict=True))
    who, what = korean.with_particle(name[1], "은"), korean.with_particle(thing[1], "이")
    return f"{who} {what} {start}개 있다. {heard}"


def _step(numbers, previous, i):
    total = whole(result(previous)) if i else numbers[0]
    after = total + numbers[i + 1]
    return f"{total}{numbers[i + 1]:+d}={after}"


FAMILY = Family(
    name="word_sum",
    sizes=(1, 2, 3),
    draw=_draw,
    ask=_ask,
    step=_step,
)
