"""Tool calls of a model, executed in the sandbox.

execute({"family", "state", "tool_calls"})  ->  {"messages", "state"}    a function of a child
run_all(pool, requests)                     ->  one Ran per request      for the trainer
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kanana_jax.rollouts import sandbox, tools
from kanana_jax.rollouts.environments import families
from kanana_jax.rollouts.tools import Message

_FUNCTION = "kanana_jax.rollouts.calls:execute"


@dataclass(frozen=True, kw_only=True)
class Request:
    family: str
    state: Any
    tool_calls: Sequence[Any]  # those of one turn, as the model wrote them


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A tool message for each call, and the state after them.

    Where the status is not "ok", the messages say so to the model and the state is as it was.
    """

    status: sandbox.Status
    messages: list[Message]
    state: Any


def run(family: str, state: Any, tool_calls: Sequence[Any]) -> tuple[list[Message], Any]:
    """Runs the calls in this process, which should be a child of the sandbox."""
    return tools.run(families.of(family).tools, state, tool_calls)


def execute(request: Mapping[str, Any]) -> dict[str, Any]:
    messages, state = run(request["family"], request["state"], request["tool_calls"])
    return {"messages": messages, "state": state}


def run_all(pool: sandbox.Runner, requests: Sequence[Request]) -> list[Ran]:
    """In the order of the requests."""
    outcomes = pool.run([
        sandbox.Call(
            function=_FUNCTION,
            modules=families.modules_of(one.family),
            argument={
                "family": one.family,
                "state": one.state,
                "tool_calls": list(one.tool_calls),
            },
        )
        for one in requests
    ])  # fmt: skip
    return [_ran(one, outcome) for one, outcome in zip(requests, outcomes, strict=True)]


def _ran(request: Request, outcome: sandbox.Outcome) -> Ran:
    """A program of a model may have written the outcome."""
    match outcome.value:
        case {"messages": list(messages), "state": state} if _fit(messages, request):
            return Ran(status="ok", messages=messages, state=state)
    status = "error" if outcome.status == "ok" else outcome.status
    said = f"error: {outcome.message[:200] or status}"
    messages = [{"role": "tool", "name": "", "content": said} for _ in request.tool_calls]
    return Ran(status=status, messages=messages, state=request.state)


def _fit(messages: list[Any], request: Request) -> bool:
    return len(messages) == len(request.tool_calls) and all(
        isinstance(one, dict)
        and one.keys() <= {"role", "name", "content", "tool_call_id"}
        and one.get("role") == "tool"
        and isinstance(one.get("name"), str)
        and isinstance(one.get("content"), str)
        for one in messages
    )
