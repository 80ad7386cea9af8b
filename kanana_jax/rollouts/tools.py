"""Tools: typed functions over a state, for calls that a model wrote.

    tool(state, arguments)  ->  result (text), new state

A model's mistake becomes a result that begins with "error: " and leaves the state as it was.
"""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Message = dict[str, Any]
Type = Literal["integer", "string"]

MOST_CALLS = 16  # in one turn
_MOST = {"integer": 10**9, "string": 10_000}  # the largest, the longest
_TYPES = {"integer": int, "string": str}


class MistakeError(Exception):
    """A mistake of the model that called a tool."""


@dataclass(frozen=True, kw_only=True)
class Tool:
    """`function(state, **arguments)` may change the state, which is a copy, and returns a text.

    It raises MistakeError where the arguments do not fit the state. All parameters are required.
    """

    name: str
    description: str
    function: Callable[..., str]
    parameters: Mapping[str, Type] = field(default_factory=dict)


def by_name(*tools: Tool) -> dict[str, Tool]:
    return {tool.name: tool for tool in tools}


def schema(tool: Tool) -> dict[str, Any]:
    """As chat templates show it to a model."""
    properties = {name: {"type": kind} for name, kind in tool.parameters.items()}
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def call(name: str, /, **arguments: Any) -> dict[str, Any]:
    """A tool call as it stands in a message."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def run(
    tools: Mapping[str, Tool], state: Any, tool_calls: Sequence[Any]
) -> tuple[list[Message], Any]:
    """A message for each call, in turn, and the state after the last."""
    messages = []
    for i, one in enumerate(tool_calls):
        function = one.get("function") if isinstance(one, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        name = name if isinstance(name, str) else ""
        try:
            if i >= MOST_CALLS:
                raise MistakeError(f"more than {MOST_CALLS} calls at once")
            result, state = _run_one(tools, state, name, function)
        except MistakeError as mistake:
            result = f"error: {mistake}"
        named = {"tool_call_id": one["id"]} if isinstance(one, dict) and "id" in one else {}
        messages.append({"role": "tool", "name": name, "content": result, **named})
    return messages, state


def _run_one(tools: Mapping[str, Tool], state: Any, name: str, function: Any) -> tuple[str, Any]:
    if name not in tools:
        raise MistakeError(f"no tool {name[:40]!r}; there is {', '.join(tools) or 'none'}")
    arguments = _checked(tools[name], function.get("arguments"))
    after = copy.deepcopy(state)
    return tools[name].function(after, **arguments), after


def _checked(tool: Tool, arguments: Any) -> dict[str, Any]:
    if isinstance(arguments, str):  # as some templates write them
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise MistakeError("arguments are no JSON") from None
    if not isinstance(arguments, dict):
        raise MistakeError(f"{tool.name} takes an object of arguments")
    if set(arguments) != set(tool.parameters):
        expected = ", ".join(tool.parameters) or "no arguments"
        given = ", ".join(str(name)[:40] for name in list(arguments)[:8]) or "none"
        raise MistakeError(f"{tool.name} takes {expected}, not {given}")
    for name, kind in tool.parameters.items():
        value = arguments[name]
        if type(value) is not _TYPES[kind]:  # True is no integer here
            raise MistakeError(f"{name} must be of type {kind}")
        if (abs(value) if kind == "integer" else len(value)) > _MOST[kind]:
            raise MistakeError(f"{name} is too large")
    return arguments
