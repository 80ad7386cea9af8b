"""A conversation as clients send it, with the assistant's messages as they got them."""

from collections.abc import Callable
from typing import Any

from kanana_jax.data import DataError
from kanana_jax.data import chat as formats
from kanana_jax.generate import neutral
from kanana_jax.generate.serve import fields
from kanana_jax.generate.serve.fields import bad, kind_of

_ROLES = ("assistant", "developer", "system", "tool", "user")
# Text beside the content, which a template may use.
_TEXTS = ("name", "reasoning", "reasoning_content", "tool_call_id")

# From a parameter's name and the object in it to the text that a model reads in the sound's place.
Hear = Callable[[str, Any], str]


def deaf(param: str, value: Any) -> str:
    """Of a server that does not hear."""
    raise bad(param, "is sound, which this server does not hear: start it with --speech")


def parse(value: Any, hear: Hear = deaf) -> list[dict[str, Any]]:
    """Messages {"role", "content"} and what else a template may read: text, and calls of tools."""
    if not isinstance(value, list) or not value:
        raise bad("messages", f"must be a list of at least one message, got {kind_of(value)}")
    return [_message(f"messages[{place}]", one, hear) for place, one in enumerate(value)]


def _message(param: str, value: Any, hear: Hear) -> dict[str, Any]:
    if not isinstance(value, dict) or value.get("role") not in _ROLES:
        raise bad(param, f"must be an object with a role of {', '.join(_ROLES)}")
    left = fields.without_nulls(value)
    message: dict[str, Any] = {"role": left.pop("role")}
    # An answer without text comes back as null.
    default = "" if message["role"] == "assistant" else None
    message["content"] = _content(f"{param}.content", left.pop("content", default), hear)
    for name in _TEXTS:
        text = left.pop(name, "")
        if not isinstance(text, str):
            raise bad(f"{param}.{name}", f"must be text, got {kind_of(text)}")
        if text:
            message[name] = text
    if message["role"] == "assistant" and left.get("tool_calls"):
        message["tool_calls"] = _calls(f"{param}.tool_calls", left.pop("tool_calls"))
    fields.refuse_others(left, neutral.MESSAGE, f"{param}.")
    return message


def _calls(param: str, value: Any) -> list[dict[str, Any]]:
    """Calls with their arguments as an object, as templates read them."""
    try:
        return formats.checked_calls(value, param)
    except DataError as error:
        raise bad(param, str(error)) from None


def _content(param: str, content: Any, hear: Hear) -> str:
    if isinstance(content, list):
        parts = (_part(f"{param}[{place}]", one, hear) for place, one in enumerate(content))
        content = "".join(parts)
    if not isinstance(content, str):
        raise bad(param, f"must be text, got {kind_of(content)}")
    return content


def _part(param: str, value: Any, hear: Hear) -> str:
    if not isinstance(value, dict) or value.get("type") not in ("text", "input_audio"):
        raise bad(param, "must be a part of type text or input_audio")
    left = fields.without_nulls(value)
    kind = left.pop("type")
    if kind == "input_audio":
        text = hear(f"{param}.input_audio", left.pop("input_audio", None))
    else:
        text = left.pop("text", None)
    if not isinstance(text, str):
        raise bad(f"{param}.text", f"must be text, got {kind_of(text)}")
    fields.refuse_others(left, neutral.PART, f"{param}.")
    return text
