"""Families of reasoning-gym (Apache-2.0) whose answer is one text, as exact tasks.

    kanana_jax.rollouts.adapters.gym:gcd  is its family gcd

Families with a scorer of their own are refused: several of them execute what a model wrote, and
many pay for a constant. Replies to the others are compared here, so no code of the package sees
one.
"""

import functools
import random

from kanana_jax import extras
from kanana_jax.config import ConfigError
from kanana_jax.rollouts import task
from kanana_jax.rollouts.environments import exact
from kanana_jax.rollouts.task import Task, TaskFamily
from kanana_jax.rollouts.tasks.problem import Language

_SEEDS = 2**31
# The same seed gives other items in every process.
_WITHOUT_SEED = ("list_functions",)


def __getattr__(name: str) -> TaskFamily:
    """The family of a name, which `environments.of` takes from this module."""
    if name.startswith("_"):
        raise AttributeError(name)
    return family(name)


def family(name: str) -> TaskFamily:
    """The package is asked for the name when a task is drawn, and is not needed to verify one."""
    return TaskFamily(
        name=f"{__name__}:{name}",
        levels=(1,),
        draw=functools.partial(_draw, name),
        verify=exact.verify,
    )


def names() -> list[str]:
    """The families that can be drawn."""
    with extras.needed("environments"):
        from reasoning_gym.factory import DATASETS  # pyright: ignore[reportMissingImports]
    own = ((name, vars(dataset)) for name, (dataset, _) in DATASETS.items())
    return sorted(
        name for name, made in own if "score_answer" not in made and name not in _WITHOUT_SEED
    )


def _draw(name: str, rng: random.Random, language: Language, level: int) -> Task:
    if language != "en" or name not in names():
        raise ConfigError(
            f"expected English and a family with one right text, got {language} and {name!r}; "
            f"there is {', '.join(names())}"
        )
    with extras.needed("environments"):
        import reasoning_gym  # pyright: ignore[reportMissingImports]
    item = reasoning_gym.create_dataset(name, size=1, seed=rng.randrange(_SEEDS))[0]
    question, answer = str(item["question"]).strip(), str(item["answer"]).strip()
    return Task(
        family=f"{__name__}:{name}",
        language=language,
        level=level,
        content=f"{name} {question}",
        messages=(task.user(question),),
        goal={"answer": answer},
        oracle=(task.assistant(answer),),
    )
