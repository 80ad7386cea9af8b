"""Tools of a chat, which of them the model may or must call, and the form of the content."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from kanana_jax.data import DataError
from kanana_jax.data import chat as formats
from kanana_jax.generate.grammar import Wanted
from kanana_jax.generate.serve import fields
from kanana_jax.generate.serve.fields import bad, kind_of, shown, take

_MAX_TOOLS = 128
_CHOICES = ("none", "auto", "required")


@dataclasses.dataclass(frozen=True)
class Tooling:
    """What is asked of an answer besides its text."""

    told: tuple[formats.Tool, ...] = ()  # tools that the model is told of
    wanted: Wanted = dataclasses.field(default_factory=Wanted)

    @property
    def reads_calls(self) -> bool:
        return bool(self.wanted.tools)


def parse(left: dict[str, Any]) -> Tooling:
    """Takes tools, tool_choice, parallel_tool_calls and response_format out of `left`."""
    given = left.pop("tools", [])
    told = _tools(given)
    strict = _strict(given) if told else set()
    choice = left.pop("tool_choice", "auto" if told else "none")
    is_parallel = take(left, "parallel_tool_calls", bool, True)
    named = _named(choice, told)
    callable_tools = [] if choice == "none" else told if named is None else [named]
    wanted = Wanted(
        schema=schema(left),
        tools=[_with_strict(tool, strict) for tool in callable_tools],
        must_call=choice == "required" or named is not None,
        is_parallel=is_parallel and named is None,
    )
    return Tooling(tuple(told), wanted)


def _tools(given: Any) -> list[formats.Tool]:
    if isinstance(given, list) and len(given) > _MAX_TOOLS:
        raise bad("tools", f"must be at most {_MAX_TOOLS}, got {len(given)}")
    try:
        return formats.checked_tools(given, "tools")
    except DataError as error:
        raise bad("tools", str(error)) from None


def _strict(given: Sequence[Mapping[str, Any]]) -> set[str]:
    """Names of the tools whose calls must fit their schemas."""
    found = set()
    for place, tool in enumerate(given):
        strict = tool["function"].get("strict")
        if not isinstance(strict, bool | None):
            raise bad(f"tools[{place}].function.strict", f"must be bool, got {kind_of(strict)}")
        if strict:
            found.add(tool["function"]["name"])
    return found


def _with_strict(tool: formats.Tool, strict: set[str]) -> formats.Tool:
    function = tool["function"]
    return {**tool, "function": {**function, "strict": function["name"] in strict}}


def _named(choice: Any, told: Sequence[formats.Tool]) -> formats.Tool | None:
    """The one tool that must be called."""
    if isinstance(choice, str) and choice in _CHOICES:
        if choice == "required" and not told:
            raise bad("tool_choice", "is required where there are no tools; give tools")
        return None
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(choice, dict) or choice.get("type") != "function" or name is None:
        raise bad(
            "tool_choice",
            f"must be {', '.join(_CHOICES)} or an object that names a function, got "
            f"{shown(choice)}",
        )
    for tool in told:
        if tool["function"]["name"] == name:
            return tool
    raise bad("tool_choice", f"must name one of the tools, got {shown(name)}")


def schema(left: dict[str, Any]) -> Mapping[str, Any] | None:
    """The schema that the content must fit, from response_format; None: any text."""
    given = left.pop("response_format", {"type": "text"})
    kind = given.get("type") if isinstance(given, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema":
        raise bad(
            "response_format",
            f"must have a type of text, json_object or json_schema, got {shown(given)}",
        )
    inside = fields.without_nulls(take(dict(given), "json_schema", dict, {}))
    for name, wanted in (("name", str), ("description", str), ("strict", bool)):
        value = inside.pop(name, None)
        if not isinstance(value, wanted | None):
            raise bad(
                f"response_format.json_schema.{name}",
                f"must be {wanted.__name__}, got {kind_of(value)}",
            )
    found = inside.pop("schema", None)
    if not isinstance(found, dict):
        raise bad("response_format.json_schema.schema", f"must be an object, got {kind_of(found)}")
    fields.refuse_others(inside, {}, "response_format.json_schema.")
    return found
