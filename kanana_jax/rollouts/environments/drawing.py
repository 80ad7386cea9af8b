"""Sets of tasks from one side of the split.

The content of a task decides whether it is on the training side or on the held-out side, so the
sides share none, whatever the seeds and languages.
"""

import itertools
import json
import random
from collections.abc import Sequence

from kanana_jax.config import ConfigError
from kanana_jax.rollouts import task
from kanana_jax.rollouts.task import Task, TaskFamily
from kanana_jax.rollouts.tasks.problem import Language

# After so many draws in a row without a new task, the family has hardly any left.
_MAX_MISSES = 10_000


def tasks_of(
    families: Sequence[TaskFamily],
    languages: Sequence[Language],
    *,
    seed: int,
    count: int,
    heldout: bool,
    levels: Sequence[int] = (),
) -> list[Task]:
    """`count` tasks in all, of every family in every language in turn.

    No two have the same prompt and the same state. ConfigError if there are not that many, or
    if a family lacks one of the levels.
    """
    kinds = list(itertools.product(families, languages))
    if not kinds:
        raise ConfigError("expected families and languages to draw tasks of, got none")
    share = -(-count // len(kinds))
    sets = [
        _of_one(family, language, seed=seed, count=share, heldout=heldout, levels=levels)
        for family, language in kinds
    ]
    return list(itertools.chain.from_iterable(zip(*sets, strict=True)))[:count]


def make(
    family: TaskFamily, language: Language, seed: int, index: int, levels: Sequence[int] = ()
) -> Task:
    """Task `index` of a seed: the same content in both languages."""
    rng = random.Random(f"{family.name} {seed} {index}")
    return family.draw(rng, language, rng.choice(_levels(family, levels)))


def _levels(family: TaskFamily, levels: Sequence[int]) -> tuple[int, ...]:
    known = (*family.levels, *family.more_levels)
    if unknown := set(levels) - set(known):
        raise ConfigError(
            f"expected levels of {family.name} among {sorted(set(known))}, got {sorted(unknown)}"
        )
    return tuple(levels) or family.levels


def _of_one(
    family: TaskFamily,
    language: Language,
    *,
    seed: int,
    count: int,
    heldout: bool,
    levels: Sequence[int],
) -> list[Task]:
    found: dict[str, Task] = {}
    misses = 0
    for index in itertools.count():
        if len(found) == count:
            break
        one = make(family, language, seed, index, levels)
        key = json.dumps([one.messages, one.state])
        is_new = task.is_heldout(one) == heldout and key not in found
        misses = 0 if is_new else misses + 1
        if is_new:
            found[key] = one
        elif misses == _MAX_MISSES:
            raise ConfigError(
                f"expected {count} {'held-out' if heldout else 'training'} tasks of "
                f"{family.name} with levels {list(levels or family.levels)}, got {len(found)} "
                "that differ; ask for fewer or for higher levels"
            )
    return list(found.values())
