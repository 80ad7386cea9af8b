"""The verifiers of tasks with one right text.

plain       reward = [the answer is the right one]
with tools  reward = [the answer is the right one] * [a tool gave it]
"""

from collections.abc import Sequence
from typing import Any

from kanana_jax.rollouts import task
from kanana_jax.rollouts.task import Score, Task
from kanana_jax.rollouts.tools import Message

_MOST_RESULTS = 32


def verify(given: Task, messages: Sequence[Message], state: Any) -> Score:
    right = float(task.answer(messages) == given.goal["answer"])
    return Score(reward=right, parts={"answer": right})


def verify_with_tools(given: Task, messages: Sequence[Message], state: Any) -> Score:
    """The state says what tools gave; no message can fake that."""
    right = float(task.answer(messages) == given.goal["answer"])
    called = float(given.goal["answer"] in results(state))
    return Score(reward=right * called, parts={"answer": right, "called": called})


def results(state: Any) -> list[Any]:
    """What tools gave; where a program changed the state, it may be anything."""
    found = state.get("results") if isinstance(state, dict) else None
    return found if isinstance(found, list) else []


def note(state: dict[str, Any], result: str) -> str:
    """Writes a result into the state, and returns it."""
    state["results"] = [*results(state), result][-_MOST_RESULTS:]
    return result
