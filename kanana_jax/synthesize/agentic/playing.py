"""A conversation: a user who wants something, an agent with tools, and the simulator.

    user -> agent -> tools -> agent -> ... -> answer -> user -> ... -> DONE

The agent's calls run in the simulator, which holds the state. Messages have the form of
conversations for training.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kanana_jax.data.chat import messages as formats
from kanana_jax.data.errors import DataError
from kanana_jax.rollouts import tools
from kanana_jax.synthesize.agentic import prompts, tasks
from kanana_jax.synthesize.agentic.tasks import Settings, Task
from kanana_jax.synthesize.replies import Ask

# done: the user has all. turns: the user never stopped. calls: the agent never answered.
End = Literal["done", "turns", "calls", "malformed"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    turns: int = 6  # of the user
    calls: int = 8  # turns of the agent to one message of the user


@dataclass(frozen=True, kw_only=True)
class Played:
    task: Task
    messages: tuple[dict[str, Any], ...]  # from the system prompt on
    state: Any
    end: End

    @property
    def spoken(self) -> list[dict[str, Any]]:
        """What user and agent said to each other."""
        return [one for one in self.messages if one["role"] != "tool" and one["content"]][1:]

    @property
    def schemas(self) -> list[dict[str, Any]]:
        return schemas(self.task)


def schemas(task: Task) -> list[dict[str, Any]]:
    """The agent's tools as chat templates show them."""
    return [tools.schema(task.agent.spec.tools[name]) for name in task.agent.tools]


async def play(ask: Ask, user: Settings, agent: Settings, task: Task, limits: Limits) -> Played:
    """Plays a task to its end. UnusableError where an endpoint has no answer."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": task.agent.prompt}]
    state: Any = task.state()
    for turn in range(limits.turns):
        now = Played(task=task, messages=tuple(messages), state=state, end="turns")
        wanted = prompts.user(task.persona, task.need, now.spoken)
        said = (await tasks.asked(ask, user, wanted, "user", task.id, turn)).text.strip()
        if said.strip(".! ") == prompts.DONE:
            return Played(task=task, messages=tuple(messages), state=state, end="done")
        messages.append({"role": "user", "content": said})
        end, state = await _answered(ask, agent, task, messages, state, turn, limits.calls)
        if end:
            return Played(task=task, messages=tuple(messages), state=state, end=end)
    return Played(task=task, messages=tuple(messages), state=state, end="turns")


async def _answered(
    ask: Ask,
    settings: Settings,
    task: Task,
    messages: list[dict[str, Any]],
    state: Any,
    turn: int,
    most: int,
) -> tuple[End | None, Any]:
    """Adds what the agent does until it answers; an end where it does not."""
    known = {name: task.agent.spec.tools[name] for name in task.agent.tools}
    for step in range(most):
        answer = await tasks.asked(
            ask, settings, _wire(messages), "agent", task.id, turn, step, tools=schemas(task)
        )
        try:
            calls = formats.checked_calls(list(answer.tool_calls), "answer")
        except DataError:
            return "malformed", state
        for one in calls:
            one.pop("id", None)
        messages.append(formats.assistant(answer.text.strip(), calls=calls))
        if not calls:
            return None, state
        results, state = tools.run(known, state, calls)
        messages += results
    return "calls", state


def _wire(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as in OpenAI's interface: calls with ids that results name, arguments as text."""
    found, ids, number = [], [], 0
    for one in messages:
        one = dict(one)
        if one.get("tool_calls"):
            ids = [f"call_{number + place}" for place in range(len(one["tool_calls"]))]
            number += len(ids)
            one["tool_calls"] = [
                {"id": name, "type": "function",
                 "function": {**call["function"],
                              "arguments": json.dumps(call["function"]["arguments"])}}
                for name, call in zip(ids, one["tool_calls"], strict=True)
            ]  # fmt: skip
        elif one["role"] == "tool":
            one = {"role": "tool", "tool_call_id": ids.pop(0), "content": one["content"]}
        found.append(one)
    return found
