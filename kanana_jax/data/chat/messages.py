"""Messages in their one form, and the checks that bring a record's messages into it.

    {"role": "system" | "user", "content": str}
    {"role": "assistant", "content": str, "reasoning_content"?: str, "tool_calls"?: [
        {"type": "function", "function": {"name": str, "arguments": dict}}]}
    {"role": "tool", "content": str, "name"?: str}

A record's "tools" are [{"type": "function", "function": {"name", "description"?, "parameters"?}}].
A system message may come first; then messages of the user and the assistant take turns, and results
follow the assistant's calls. What else OpenAI's form allows is converted: arguments and tools as a
JSON string, null for content next to calls, and ids of calls, which must follow the order of the
results.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from kanana_jax.data import jsonl, utf8
from kanana_jax.data.errors import DataError, listed

Message = Mapping[str, Any]
Tool = Mapping[str, Any]

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # of a tool
_ROLES = ("system", "user", "assistant", "tool")
_KEYS = {
    "system": ("role", "content"),
    "user": ("role", "content"),
    "assistant": ("role", "content", "reasoning_content", "tool_calls"),
    "tool": ("role", "content", "name", "tool_call_id"),
}


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A call of a tool."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def assistant(
    content: str, reasoning: str = "", calls: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """A message of the assistant; empty fields other than the content are left out."""
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if reasoning:
        message["reasoning_content"] = reasoning
    return message | ({"tool_calls": list(calls)} if calls else {})


def checked_tools(value: Any, where: str) -> list[Tool]:
    """The tools of a record; none for null. Raises DataError on another form."""
    value = _of_json(value, f"{where}: expected tools in 'tools'")
    if value is None:
        return []
    if not isinstance(value, list):
        raise DataError(f"{where}: expected a list of tools in 'tools', got {jsonl.kind(value)}.")
    tools = [_checked_tool(one, f"{where}: tool {n}") for n, one in enumerate(value, start=1)]
    names = [tool["function"]["name"] for tool in tools]
    if len({*names}) < len(names):
        raise DataError(f"{where}: expected tools of different names, got {listed(names)}.")
    return tools


def _checked_tool(value: Any, where: str) -> Tool:
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(function, dict) or value.get("type") != "function":
        raise DataError(
            f'{where}: expected {{"type": "function", "function": {{"name": ...}}}}, got '
            f"{jsonl.kind(value)} of another form."
        )
    _expect_keys(value, ("type", "function"), where)
    _expect_keys(function, ("name", "description", "parameters", "strict"), where)
    found = {key: one for key, one in function.items() if one is not None and key != "strict"}
    _expect_name(found.get("name"), where)
    parameters = found.get("parameters", {})
    if not isinstance(parameters, dict) or not isinstance(found.get("description", ""), str):
        raise DataError(f"{where}: expected text as description and an object as parameters.")
    if not isinstance(parameters.get("properties") or {}, dict):
        raise DataError(f"{where}: expected an object as properties of the parameters.")
    _expect_json(found, where)
    return {"type": "function", "function": found}


def checked_messages(
    value: Any,
    name: str,
    where: str,
    *,
    last: Collection[str],
    tools: Sequence[Tool] = (),
    is_of_model: bool = False,
) -> list[dict[str, Any]]:
    """The messages of a record's field `name`; the last has one of the roles `last`.

    Raises DataError on other roles, another order, and what is not text. Unless a model may have
    written the answers, also on an assistant that says nothing, and on calls not in `tools`.
    """
    if not isinstance(value, list) or not value:
        got = "none" if value == [] else jsonl.kind(value)
        raise DataError(f"{where}: expected a list of messages in {name}, got {got}.")
    places = [f"{where}: message {number} of {name}" for number in range(1, len(value) + 1)]
    messages = [_checked_message(one, place) for one, place in zip(value, places, strict=True)]
    _expect_turns([message["role"] for message in messages], name, where, last)
    known = [tool["function"]["name"] for tool in tools]
    _expect_results(messages, places)
    if not is_of_model:
        _expect_sense(messages, places, known)
    for message in messages:
        message.pop("tool_call_id", None)
        for one in message.get("tool_calls", ()):
            one.pop("id", None)
    return messages


def _expect_sense(
    messages: Sequence[dict[str, Any]], places: Sequence[str], known: Sequence[str]
) -> None:
    """What is to be learned must say something and call only tools that exist."""
    for message, where in zip(messages, places, strict=True):
        calls = message.get("tool_calls", ())
        if message["role"] == "assistant" and not (message["content"].strip() or calls):
            raise DataError(f"{where}: expected text from the assistant, got none.")
        for one in calls:
            if one["function"]["name"] not in known:
                raise DataError(
                    f"{where}: expected calls of the record's tools, {listed(known)}, got "
                    f"{one['function']['name']!r}; list it in 'tools'."
                )


def _checked_message(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object, got {jsonl.kind(value)}.")
    role, content = value.get("role"), value.get("content")
    if role not in _ROLES:
        shown = repr(role) if isinstance(role, str) else jsonl.kind(role)
        raise DataError(f"{where}: expected a role of {listed(_ROLES)}, got {shown}.")
    # Weights of messages and the like would change what is to be learned.
    _expect_keys(value, _KEYS[role], where)
    calls = checked_calls(value.get("tool_calls"), where)
    content = "" if content is None and calls else content
    texts = {
        "content": content,
        **{key: value[key] for key in _KEYS[role][2:] if value.get(key) and key != "tool_calls"},
    }
    for key, text in texts.items():
        if not isinstance(text, str):
            raise DataError(f"{where}: expected a string in {key!r}, got {jsonl.kind(text)}.")
        utf8.encode(text, where)
    return {"role": role, **texts, **({"tool_calls": calls} if calls else {})}


def checked_calls(value: Any, where: str) -> list[dict[str, Any]]:
    """The calls of a message, arguments as objects; none for null. DataError on another form."""
    value = [] if value is None else value
    if not isinstance(value, list):
        raise DataError(f"{where}: expected a list in 'tool_calls', got {jsonl.kind(value)}.")
    return [_checked_call(one, f"{where}, call {n}") for n, one in enumerate(value, start=1)]


def _checked_call(value: Any, where: str) -> dict[str, Any]:
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(function, dict) or value.get("type", "function") != "function":
        raise DataError(
            f'{where}: expected {{"type": "function", "function": {{"name", "arguments"}}}}, got '
            f"{jsonl.kind(value)} of another form."
        )
    _expect_keys(value, ("type", "function", "id", "index"), where)
    _expect_keys(function, ("name", "arguments"), where)
    _expect_name(function.get("name"), where)
    arguments = _of_json(function.get("arguments"), f"{where}: expected arguments")
    if not isinstance(arguments, dict):
        raise DataError(
            f"{where}: expected an object in 'arguments', or JSON of one, got "
            f"{jsonl.kind(arguments)}."
        )
    _expect_json(arguments, where)
    found = call(function["name"], arguments)
    return found | ({"id": value["id"]} if value.get("id") else {})


def _expect_json(value: Any, where: str) -> None:
    """DataError on numbers that JSON does not have, and on halves of surrogate pairs."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise DataError(f"{where}: expected numbers of JSON, got others: {error}.") from error
    utf8.encode(text, where)


def _of_json(value: Any, wanted: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise DataError(f"{wanted} as an object or as JSON, got text: {error}.") from error


def _expect_name(value: Any, where: str) -> None:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        shown = repr(value) if isinstance(value, str) else jsonl.kind(value)
        raise DataError(
            f"{where}: expected a name of ASCII letters, digits, _ . and -, got {shown}."
        )


def _expect_keys(value: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    more = [key for key in value if key not in known and value[key] is not None]
    if more:
        raise DataError(
            f"{where}: expected the keys {listed(known)}, got also {listed(more)}; take them "
            "out, or leave such lines out with data.skip_bad_lines."
        )


def _expect_turns(roles: Sequence[str], name: str, where: str, last: Collection[str]) -> None:
    follows = {
        None: ("user",),
        "user": ("assistant",),
        "assistant": ("user", "tool"),
        "tool": ("tool", "assistant"),
    }
    before = None
    for role in roles[1:] if roles[0] == "system" else roles:
        if role not in follows.get(before, ()):
            break
        before = role
    else:
        if before in last:
            return
    raise DataError(
        f"{where}: expected in {name} a system message or none, then user and assistant in turn, "
        f"results of tools behind calls, the {' or '.join(last)} last, got {listed(roles)}."
    )


def _expect_results(messages: Sequence[dict[str, Any]], places: Sequence[str]) -> None:
    """Each result must follow a call of its own, in the order of the calls, with none left out."""
    calls: list[dict[str, Any]] = []
    for message, where in zip(messages, places, strict=True):
        if message["role"] != "tool":
            if calls:
                raise DataError(
                    f"{where}: expected the result of the call of "
                    f"{calls[0]['function']['name']!r}, got a message of {message['role']!r}."
                )
            calls = list(message.get("tool_calls", ()))
        else:
            if not calls:
                raise DataError(
                    f"{where}: expected a result behind a call of the assistant, one for each, got "
                    "one without."
                )
            ids = (calls.pop(0).get("id"), message.get("tool_call_id"))
            if all(ids) and ids[0] != ids[1]:
                raise DataError(
                    f"{where}: expected results in the order of the calls, that of {ids[0]!r} "
                    f"next, got {ids[1]!r}; sort them."
                )
