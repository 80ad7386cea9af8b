"""Linear equations: 2x+3+4=15. x?

step_i = left_{i-1} - term_i = left_i,   and at last   left / a = x
"""

from kanana_jax.rollouts.tasks.problem import Family, result, whole


def _draw(rng, size):
    """The factor, the unknown and the other terms."""
    return (rng.randint(2, 5), rng.randint(1, 9), *(rng.randint(1, 9) for _ in range(size - 1)))


def _total(numbers):
    factor, unknown, *terms = numbers
    return factor * unknown + sum(terms)


def _ask(numbers, language, rng):
    factor, _, *terms = numbers
    asked = f"{factor}x{''.join(f'+{term}' for term in terms)}={_total(numbers)}"
    return f"If {asked}, what is x?" if language == "en" else f"{asked}이면 x는?"


def _step(numbers, previous, i):
    factor, _, *terms = numbers
    left = whole(result(previous)) if i else _total(numbers)
    if i < len(terms):
        sign, by, after = "-", terms[i], left - terms[i]
    else:
        sign, by, after = "/", factor, left // factor
    if after < 0 or (sign == "/" and after * by != left):
        raise ValueError(f"{left}{sign}{by} is not a whole number from 0")
    return f"{left}{sign}{by}={after}"


FAMILY = Family(
    name="equation",
    sizes=(1, 2, 3),
    draw=_draw,
    ask=_ask,
    step=_step,
)
