"""JSON in what a model wrote: the first object of its text, in a fence or bare."""

import json
from typing import Any


class UnreadableError(Exception):
    """What a model wrote has no such JSON."""


def first_object(text: str) -> dict[str, Any]:
    """Raises UnreadableError where there is none."""
    decoder, place = json.JSONDecoder(), text.find("{")
    while place >= 0:
        try:
            value, _ = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            return value
        place = text.find("{", place + 1)
    raise UnreadableError(f"no JSON object in {text[:80]!r}")


def texts_of(value: Any, name: str, most: int, longest: int) -> tuple[str, ...]:
    """A field that is a list of texts. Raises UnreadableError where it is not."""
    found = value.get(name)
    if (
        not isinstance(found, list)
        or not 1 <= len(found) <= most
        or not all(isinstance(one, str) and 0 < len(one.strip()) <= longest for one in found)
    ):
        raise UnreadableError(f"{name} is no list of 1 to {most} texts")
    return tuple(found)


def text_of(value: Any, name: str, longest: int) -> str:
    """A field that is a text. Raises UnreadableError where it is not."""
    found = value.get(name)
    if not isinstance(found, str) or not 0 < len(found.strip()) <= longest:
        raise UnreadableError(f"{name} is no text of 1 to {longest} characters")
    return found.strip()
