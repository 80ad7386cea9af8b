"""The families of tasks by name."""

import importlib

from kanana_jax.config import ConfigError
from kanana_jax.rollouts.environments import (
    calendar,
    constraints,
    lookup,
    problems,
    products,
    program,
    reversing,
    shop,
)
from kanana_jax.rollouts.task import TaskFamily

FAMILIES = {
    family.name: family
    for family in (
        *problems.PROBLEM_FAMILIES,
        lookup.FAMILY,
        reversing.FAMILY,
        products.FAMILY,
        program.FAMILY,
        constraints.FAMILY,
        shop.FAMILY,
        calendar.FAMILY,
    )
}


def modules_of(name: str) -> tuple[str, ...]:
    """What a call of the sandbox must import to know a family."""
    return () if name in FAMILIES else (name.partition(":")[0],)


def of(name: str) -> TaskFamily:
    """A family by its name; one of yours by "package.module:NAME", which is then its name."""
    if name in FAMILIES:
        return FAMILIES[name]
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ConfigError(
            f"expected a family among {', '.join(FAMILIES)}, or package.module:NAME, got {name!r}"
        )
    return getattr(importlib.import_module(module), attribute)
