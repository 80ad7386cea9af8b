"""A conversation as clients send it, with the assistant's messages as they got them.

Images of a user's message are taken out of its text: a mark stands where each was. Sound becomes
text that a model reads in its place.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from kanana_jax.data import DataError
from kanana_jax.data import chat as formats
from kanana_jax.data.images import MARK
from kanana_jax.generate import neutral
from kanana_jax.generate.serve import fields, images
from kanana_jax.generate.serve.fields import bad, kind_of

_ROLES = ("assistant", "developer", "system", "tool", "user")
# Text besides the content, which a template may use.
_TEXTS = ("name", "reasoning", "reasoning_content", "tool_call_id")

# From a parameter's name and the object in it to the text that a model reads in the sound's place.
Hear = Callable[[str, Any], str]


def deaf(param: str, value: Any) -> str:
    """The `Hear` of a server that does not hear."""
    raise bad(
        param,
        "is sound, which this server does not hear: start it with --speech or a model that hears",
    )


class Conversation(NamedTuple):
    """What was said, and the URL of the image that stands at each mark in it."""

    messages: list[dict[str, Any]]
    image_urls: list[str]


class _Senses(NamedTuple):
    """What a message may have besides text."""

    hear: Hear
    urls: list[str] | None  # collects the URLs of images; None: there are to be none


def parse(value: Any, hear: Hear = deaf, *, has_images: bool = False) -> Conversation:
    """Messages {"role", "content"} and what else a template may read: text, and calls of tools.

    With `has_images` users may send images.
    """
    if not isinstance(value, list) or not value:
        raise bad("messages", f"must be a list of at least one message, got {kind_of(value)}")
    urls: list[str] = []
    senses = _Senses(hear, urls if has_images else None)
    said = [_message(f"messages[{place}]", one, senses) for place, one in enumerate(value)]
    return Conversation(said, urls)


def _message(param: str, value: Any, senses: _Senses) -> dict[str, Any]:
    if not isinstance(value, dict) or value.get("role") not in _ROLES:
        raise bad(param, f"must be an object with a role of {', '.join(_ROLES)}")
    left = fields.without_nulls(value)
    message: dict[str, Any] = {"role": left.pop("role")}
    # An answer without text comes back as null.
    default = "" if message["role"] == "assistant" else None
    content = left.pop("content", default)
    own = senses if message["role"] == "user" else senses._replace(urls=None)
    message["content"] = _content(f"{param}.content", content, own)
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


def _content(param: str, content: Any, senses: _Senses) -> str:
    if isinstance(content, list):
        parts = [_part(f"{param}[{place}]", one, senses) for place, one in enumerate(content)]
        content = "".join(parts)
    if not isinstance(content, str):
        raise bad(param, f"must be text, got {kind_of(content)}")
    return content


def _part(param: str, value: Any, senses: _Senses) -> str:
    if senses.urls is not None and isinstance(value, dict) and value.get("type") == "image_url":
        senses.urls.append(images.url_of(param, fields.without_nulls(value)))
        return MARK
    if not isinstance(value, dict) or value.get("type") not in ("text", "input_audio"):
        kinds = "text or input_audio" if senses.urls is None else "text, input_audio or image_url"
        raise bad(param, f"must be a part of type {kinds}")
    left = fields.without_nulls(value)
    kind = left.pop("type")
    if kind == "input_audio":
        text = senses.hear(f"{param}.input_audio", left.pop("input_audio", None))
    else:
        text = left.pop("text", None)
    if not isinstance(text, str):
        raise bad(f"{param}.text", f"must be text, got {kind_of(text)}")
    fields.refuse_others(left, neutral.PART, f"{param}.")
    return text
