"""Numbers that must be known when an optimizer is built."""

import operator
from typing import Any

from jax.core import Tracer


def count(name: str, value: Any, least: int = 1, most: int | None = None):
    """Raise ValueError unless value is a whole number of at least `least` and at most `most`.

    A tracer, as optax.inject_hyperparams makes them, passes: it has no value yet.
    """
    if isinstance(value, Tracer):
        return
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or (most is not None and number > most):
        end = "" if most is None else f" and at most {most}"
        raise ValueError(f"{name} must be a whole number of at least {least}{end}, got {value!r}.")
