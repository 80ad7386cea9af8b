"""Whether gold calls allow the calls that were made.

    gold call  =  {function: {argument: [allowed value, ...]}}

Texts are compared without case, blanks and marks. An integer may stand for a float, not the other
way round. An allowed object lists the allowed values of each key.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_LEFT_OUT = ""
_MOST_CALLS = 16


def matches(made: Sequence[Any], gold: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every call can be given a gold call of its own, and none is left over."""
    if len(made) != len(gold) or len(made) > _MOST_CALLS:
        return False
    allowed = [[_is_allowed(one, two) for two in gold] for one in made]
    taken: dict[int, int] = {}  # by gold call
    return all(_assign(i, allowed, taken, set()) for i in range(len(made)))


def first(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call with the first allowed values."""
    chosen = {name: _first_of(allowed) for name, allowed in arguments.items()}
    return {name: value for name, value in chosen.items() if value != _LEFT_OUT}


def _choices(allowed: Any) -> list[Any]:
    """Inner objects of the data have single values where there is one choice."""
    return allowed if isinstance(allowed, list) else [allowed]


def _first_of(allowed: Any) -> Any:
    value = next((one for one in _choices(allowed) if one != _LEFT_OUT), _LEFT_OUT)
    return _plain(value)


def _plain(value: Any) -> Any:
    """An allowed value with one choice for every key of its objects."""
    if isinstance(value, dict):
        return first(value)
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _assign(i: int, allowed: list[list[bool]], taken: dict[int, int], seen: set[int]) -> bool:
    """Finds a gold call for call i, moving calls that have another choice (augmenting paths)."""
    for j, is_allowed in enumerate(allowed[i]):
        if is_allowed and j not in seen:
            seen.add(j)
            if j not in taken or _assign(taken[j], allowed, taken, seen):
                taken[j] = i
                return True
    return False


def _is_allowed(made: Any, gold: Mapping[str, Any]) -> bool:
    function = made.get("function") if isinstance(made, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or name not in gold:
        return False
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return False
    return isinstance(arguments, dict) and _fits(arguments, gold[name])


def _fits(given: Mapping[str, Any], allowed: Mapping[str, Any]) -> bool:
    return given.keys() <= allowed.keys() and all(
        any(_is_same(given[name], one) for one in _choices(values))
        if name in given
        else _LEFT_OUT in _choices(values)
        for name, values in allowed.items()
    )


def _is_same(given: Any, allowed: Any) -> bool:
    match allowed:
        case str():
            return isinstance(given, str) and _bare(given) == _bare(allowed)
        case bool() | None:
            return given is allowed
        case int():
            return type(given) is int and given == allowed
        case float():
            return type(given) in (int, float) and given == allowed
        case list():
            return (
                isinstance(given, list)
                and len(given) == len(allowed)
                and all(map(_is_same, given, allowed))
            )
        case dict():
            return isinstance(given, dict) and _fits(given, allowed)
    return False


def _bare(text: str) -> str:
    return re.sub(r"[ ,./_*^-]", "", text).lower().replace("'", '"')
