"""Tasks on the built-in specifications, to measure agents: a request, tools, and a goal to reach.

    Lend: Emma, 2. Shelf of: Dune.   ->  @lend {"book":"Emma","amount":2}  copies 3  ...  B

    reward = [the tables are the goal's] * [what had to be read was] * [the answer tells it]

The level is the number of calls. Words are English in every language. `RolloutConfig` takes them
by name: kanana_jax.synthesize.agentic.family:LIBRARY and :STABLE.
"""

import functools
import random
from collections.abc import Sequence
from typing import Any

from kanana_jax.config import ConfigError
from kanana_jax.rollouts import task, tools
from kanana_jax.rollouts.environments import tables
from kanana_jax.rollouts.environments.tables import Spec
from kanana_jax.rollouts.task import Score, Task, TaskFamily
from kanana_jax.rollouts.tasks.problem import Language
from kanana_jax.rollouts.tools import Message
from kanana_jax.synthesize.agentic import goals, seeds, tasks
from kanana_jax.synthesize.agentic.goals import Goal

PREFIX = "kanana_jax.synthesize.agentic.family"


def system(name: str) -> str:
    """The system prompt of an agent."""
    return f"You work at the {name}."


def words(goal: Goal) -> str:
    """A request for all of a goal."""
    parts = (step.partition(" (") for step in goal.steps)
    return " ".join(f"{about}: {_values(rest)}." for about, _, rest in parts)


def _values(listed: str) -> str:
    return ", ".join(one.partition(": ")[2] for one in listed.removesuffix(")").split(", "))


def _draw(spec: Spec, rng: random.Random, language: Language, level: int) -> Task:
    varied = goals.varied(spec, rng.getrandbits(32))
    goal = goals.drawn(varied, tuple(spec.tools), level, rng.getrandbits(32))
    if goal is None:
        raise ConfigError(f"expected a goal of {level} calls in {spec.name}, found none")
    state, oracle = varied.state(), []
    for call in goal.calls:
        results, state = tools.run(varied.tools, state, [call])
        oracle += [task.assistant("", tool_calls=[call]), *results]
    told = ", ".join(one["content"] for one in oracle if one["role"] == "tool")
    return Task(
        family=f"{PREFIX}:{spec.name.upper()}",
        language=language,
        level=level,
        content=goal.content,
        messages=({"role": "system", "content": system(spec.name)}, task.user(words(goal))),
        tools=tuple(map(tools.schema, varied.tools.values())),
        state=varied.state(),
        goal={"tables": goal.tables, "reads": list(goal.reads), "says": list(goal.says)},
        oracle=(*oracle, task.assistant(told)),
    )


def _verify(given: Task, messages: Sequence[Message], state: Any) -> Score:
    reads = state.get("reads", []) if isinstance(state, dict) else []
    said = task.answer(messages)
    parts = {
        "state": float(tables.lasting(state) == given.goal["tables"]),
        "read": float(all(one in reads for one in given.goal["reads"])),
        "answer": float(bool(said) and all(tasks.says(said, one) for one in given.goal["says"])),
    }
    return Score(reward=min(parts.values()), parts=parts)


def of(spec: Spec) -> TaskFamily:
    return TaskFamily(
        name=f"{PREFIX}:{spec.name.upper()}",
        levels=(1, 2),
        more_levels=(3,),
        draw=functools.partial(_draw, spec),
        verify=_verify,
        tools=spec.tools,
    )


LIBRARY, STABLE = map(of, seeds.specs())
