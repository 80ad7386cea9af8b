"""The families of tasks by name."""

import dataclasses
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
    small_talk,
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
        small_talk.FAMILY,
        shop.FAMILY,
        calendar.FAMILY,
    )
}


def modules_of(name: str) -> tuple[str, ...]:
    """What a call of the sandbox must import to know a family."""
    return () if name in FAMILIES else (name.partition(":")[0],)


def of(name: str) -> TaskFamily:
    """A family by its name; one of yours by "package.module:NAME", which is then its name.

    After an @ come the levels to draw, if not all of the family's are wanted: "products@1,2".
    """
    name, _, levels = name.partition("@")
    family = FAMILIES[name] if name in FAMILIES else _imported(name)
    return dataclasses.replace(family, levels=_parsed(levels, family)) if levels else family


def _imported(name: str) -> TaskFamily:
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ConfigError(
            f"expected a family among {', '.join(FAMILIES)}, or package.module:NAME, got {name!r}"
        )
    return getattr(importlib.import_module(module), attribute)


def _parsed(levels: str, family: TaskFamily) -> tuple[int, ...]:
    known = {*family.levels, *family.more_levels}
    found = [int(one) if one.isdigit() else -1 for one in levels.split(",")]
    if not set(found) <= known:
        raise ConfigError(f"expected levels of {family.name} among {sorted(known)}, got {levels!r}")
    return tuple(found)
