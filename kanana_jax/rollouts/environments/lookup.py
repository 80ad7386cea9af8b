"""A table in the prompt and a question by key: ann 31, bob 72. bob? The level is its row count."""

import random

from kanana_jax import korean
from kanana_jax.rollouts import task
from kanana_jax.rollouts.environments import exact
from kanana_jax.rollouts.task import Task, TaskFamily
from kanana_jax.rollouts.tasks.problem import Language

_KEYS = (
    ("ann", "안나"), ("bob", "보라"), ("cat", "채린"), ("dan", "단비"), ("eve", "이슬"),
    ("guy", "규민"), ("ian", "이안"), ("kim", "김산"), ("lee", "이현"), ("mia", "미아"),
)  # fmt: skip


def _draw(rng: random.Random, language: Language, level: int) -> Task:
    keys = rng.sample(_KEYS, level)
    values = rng.sample(range(10, 100), level)
    asked = rng.randrange(level)
    names = [key[language == "ko"] for key in keys]
    table = ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
    name = names[asked]
    question = f"{name}?" if language == "en" else f"{korean.with_particle(name, '은')}?"
    answer = str(values[asked])
    return Task(
        family="lookup",
        language=language,
        level=level,
        content=f"lookup {[key[0] for key in keys]} {values} {asked}",
        messages=(task.user(f"{table}. {question}"),),
        goal={"answer": answer},
        oracle=(task.assistant(answer),),
    )


FAMILY = TaskFamily(
    name="lookup",
    levels=(2, 3, 4),
    more_levels=tuple(range(5, len(_KEYS) + 1)),
    draw=_draw,
    verify=exact.verify,
)
