"""The families of reasoning problems as tasks: the trace is reasoning, the answer is all content.

reward = [the answer is right]        parts: answer; trace, the share of its steps that follow
"""

import functools
import random
from collections.abc import Sequence
from typing import Any

from kanana_jax.rollouts import task
from kanana_jax.rollouts.task import Score, Task, TaskFamily
from kanana_jax.rollouts.tasks import problem
from kanana_jax.rollouts.tasks.families import FAMILIES
from kanana_jax.rollouts.tasks.problem import Family, Language, Problem
from kanana_jax.rollouts.tools import Message

_MOST_OF_A_TRACE = 4000


def _draw(family: Family, rng: random.Random, language: Language, level: int) -> Task:
    one = problem.drawn(family, language, rng, level)
    return Task(
        family=family.name,
        language=language,
        level=level,
        content=problem.content(one),
        messages=(task.user(one.prompt),),
        goal={"answer": one.answer, "numbers": list(one.numbers)},
        oracle=(task.assistant(one.answer, reasoning_content=one.trace),),
    )


def _verify(family: Family, given: Task, messages: Sequence[Message], state: Any) -> Score:
    right = float(task.answer(messages) == given.goal["answer"])
    trace = messages[-1].get("reasoning_content") if messages else None
    trace = trace.strip()[:_MOST_OF_A_TRACE] if isinstance(trace, str) else ""
    follows = problem.follows(_problem(family, given), trace)
    return Score(reward=right, parts={"answer": right, "trace": sum(follows) / len(follows)})


def _problem(family: Family, given: Task) -> Problem:
    return Problem(
        prompt=given.messages[-1]["content"],
        trace="",
        answer=given.goal["answer"],
        language=given.language,
        family=family,
        size=given.level,
        numbers=tuple(given.goal["numbers"]),
    )


def of(family: Family) -> TaskFamily:
    return TaskFamily(
        name=family.name,
        levels=family.sizes,
        more_levels=tuple(range(1, family.most_steps + 1)),
        draw=functools.partial(_draw, family),
        verify=functools.partial(_verify, family),
    )


PROBLEM_FAMILIES = tuple(of(family) for family in FAMILIES.values())
