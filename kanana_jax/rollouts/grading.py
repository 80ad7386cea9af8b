"""Scores of replies, as a function of the sandbox.

    grade({"task", "messages", "state"})  ->  {"reward", "parts"}
    grade_all(pool, replies)              ->  one outcome per reply; its value is such a score

A status that is not "ok" is no score: the reply was not judged, and is not wrong.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kanana_jax.rollouts import sandbox, task
from kanana_jax.rollouts.environments import families
from kanana_jax.rollouts.task import Score, Task
from kanana_jax.rollouts.tools import Message

_FUNCTION = "kanana_jax.rollouts.grading:grade"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What followed the prompt of a task, and the state after it."""

    task: Task
    messages: Sequence[Message]
    state: Any


def score(reply: Reply) -> Score:
    """In this process: for replies that no model wrote."""
    return families.of(reply.task.family).verify(reply.task, reply.messages, reply.state)


def grade(value: Mapping[str, Any]) -> dict[str, Any]:
    reply = Reply(
        task=task.from_json(value["task"]), messages=value["messages"], state=value["state"]
    )
    return dataclasses.asdict(score(reply))


def grade_all(pool: sandbox.Runner, replies: Sequence[Reply]) -> list[sandbox.Outcome]:
    """In the order of the replies."""
    return pool.run([
        sandbox.Call(
            function=_FUNCTION,
            modules=families.modules_of(one.task.family),
            argument={
                "task": task.to_json(one.task),
                "messages": list(one.messages),
                "state": one.state,
            },
        )
        for one in replies
    ])  # fmt: skip
