"""A task: a conversation to continue, tools over a small world, and what a verifier needs.

    prompt  =  messages, the last of which is a user's
    reply   =  turns of the assistant (content, reasoning_content, tool_calls) and of tools
    score   =  verify(task, reply, state after the reply)

Messages are as chat templates read them; the arguments of a tool call are a dict. A state and a
goal are JSON values. Everything is a function of a seed, and everything but functions goes through
JSON.
"""

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kanana_jax.rollouts.tasks import problem
from kanana_jax.rollouts.tasks.problem import Language
from kanana_jax.rollouts.tools import Message, Tool


@dataclass(frozen=True, kw_only=True)
class Task:
    """`content` decides the task, in every language, and its side of the split."""

    family: str
    language: Language
    level: int
    content: str
    messages: tuple[Message, ...]
    oracle: tuple[Message, ...]  # a reply that earns the full reward
    tools: tuple[dict[str, Any], ...] = ()  # schemas
    state: Any = None
    goal: Any = None


@dataclass(frozen=True, kw_only=True)
class Score:
    reward: float  # in [0, 1]
    parts: dict[str, float]

    def __post_init__(self):
        assert 0.0 <= self.reward <= 1.0, self


@dataclass(frozen=True, kw_only=True)
class TaskFamily:
    """A kind of task, as pure functions of their arguments.

    `draw` takes a language and a level. From its generator it first draws what decides the
    content, then the words, so that both languages have the same contents. `verify` takes any
    reply and any state, as models make them, and never raises.
    """

    name: str
    levels: tuple[int, ...]  # drawn unless others are asked for
    draw: Callable[[random.Random, Language, int], Task]
    verify: Callable[[Task, Sequence[Message], Any], Score]
    more_levels: tuple[int, ...] = ()  # which can be asked for
    tools: Mapping[str, Tool] = field(default_factory=dict)


def is_heldout(task: Task) -> bool:
    """Whether a task is for measuring. Only its content decides, so its translation is, too."""
    return problem.is_heldout_content(task.content)


def to_json(task: Task) -> dict[str, Any]:
    return dataclasses.asdict(task)


def from_json(value: Mapping[str, Any]) -> Task:
    sequences = {name: tuple(value[name]) for name in ("messages", "oracle", "tools")}
    return Task(**{**value, **sequences})


def answer(messages: Sequence[Message]) -> str:
    """What the last turn answers; empty where it is no answer of the assistant."""
    last = messages[-1] if messages else {}
    content = last.get("content")
    is_answer = last.get("role") == "assistant" and not last.get("tool_calls")
    return content.strip() if is_answer and isinstance(content, str) else ""


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str, **further: Any) -> Message:
    return {"role": "assistant", "content": content, **further}
