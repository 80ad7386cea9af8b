"""Numbers that must be known when an optimizer is built."""

import operator
from typing import Any

from jax.core import Tracer


def count(name: str, value: Any, least: int = 1):
    """Raise ValueError unless value is a whole number of at least `least`.

    A traced one, as optax.inject_hyperparams makes them, passes: it has no value yet.
    """
    if isinstance(value, Tracer):
        return
    try:
        is_enough = operator.index(value) >= least
    except TypeError:
        is_enough = False
    if not is_enough:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}.")
