"""Conversations about a world with a state: each request of the user changes it or asks about it.

    prompt  =  request 1, calls, results, answer 1, ..., request n
    reward  =  [the state is the one wanted] * [what had to be read was read] * [the answer says it]

Earlier requests are answered in the prompt, so a task asks for one reply. The state has "reads",
the calls that only looked something up, so a guessed answer earns nothing.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kanana_jax.rollouts import task, tools
from kanana_jax.rollouts.task import Score, Task
from kanana_jax.rollouts.tasks.problem import Language
from kanana_jax.rollouts.tools import Message, Tool

_MOST_WORDS = 12
_MOST_READS = 32
_MOST_CHARACTERS = 400


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks for, the calls of each turn of the assistant, and the answer, a number."""

    text: str
    turns: tuple[tuple[dict[str, Any], ...], ...]
    answer: str


def read(state: dict[str, Any], *what: str) -> None:
    """Writes down that something was looked up."""
    state["reads"] = [*state["reads"], list(what)][-_MOST_READS:]


def make(
    family: str,
    world_tools: Mapping[str, Tool],
    level: int,
    built: Callable[[Language], tuple[dict[str, Any], Sequence[Request]]],
    language: Language,
) -> Task:
    """A task of the last request, from the state and the requests in each language.

    Its content is the English prompt and state, so both languages are on one side of the split.
    """
    english = _task(family, world_tools, level, "en", *built("en"))
    found = _task(family, world_tools, level, language, *built(language))
    content = json.dumps([family, english.messages, english.state], sort_keys=True)
    return dataclasses.replace(found, content=content)


def _task(
    family: str,
    world_tools: Mapping[str, Tool],
    level: int,
    language: Language,
    state: dict[str, Any],
    requests: Sequence[Request],
) -> Task:
    messages: list[Message] = []
    for request in requests[:-1]:
        reply, state = _reply(world_tools, state, request)
        messages += [task.user(request.text), *reply]
    state = {**state, "reads": []}
    oracle, after = _reply(world_tools, state, requests[-1])
    return Task(
        family=family,
        language=language,
        level=level,
        content="",
        messages=(*messages, task.user(requests[-1].text)),
        tools=tuple(map(tools.schema, world_tools.values())),
        state=state,
        goal={"state": _lasting(after), "reads": after["reads"], "says": requests[-1].answer},
        oracle=tuple(oracle),
    )


def _reply(
    world_tools: Mapping[str, Tool], state: Any, request: Request
) -> tuple[list[Message], Any]:
    messages = []
    for calls in request.turns:
        results, state = tools.run(world_tools, state, calls)
        messages += [task.assistant("", tool_calls=list(calls)), *results]
    return [*messages, task.assistant(request.answer)], state


def verify(given: Task, messages: Sequence[Message], state: Any) -> Score:
    reads = state.get("reads", []) if isinstance(state, dict) else []
    parts = {
        "state": float(_lasting(state) == given.goal["state"]),
        "read": float(all(one in reads for one in given.goal["reads"])),
        "answer": float(says(task.answer(messages), given.goal["says"])),
    }
    return Score(reward=min(parts.values()), parts=parts)


def _lasting(state: Any) -> Any:
    """A state without what was looked up."""
    if not isinstance(state, dict):
        return state
    return {name: value for name, value in state.items() if name != "reads"}


def says(answer: str, number: str) -> bool:
    """Whether a short answer has this number and no other."""
    is_short = len(answer) <= _MOST_CHARACTERS and len(answer.split()) <= _MOST_WORDS
    return is_short and re.findall(r"\d+", answer) == [number]
