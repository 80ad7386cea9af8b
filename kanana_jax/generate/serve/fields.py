"""Checks of a request's fields one by one, and the form of a refusal.

The functions take a field out of a dictionary without nulls; fields left over are to be refused.
"""

import json
import reprlib
from typing import Any, NoReturn

from kanana_jax.generate import neutral

_MAX_MESSAGE, _MAX_PARAM = 1000, 100  # characters; a client's own values may be in them


class ApiError(Exception):
    """An answer other than 200, in OpenAI's form."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ):
        super().__init__(message)
        self.status = status
        error = {
            "message": _shorten(message, _MAX_MESSAGE),
            "type": kind,
            "param": param and _shorten(param, _MAX_PARAM),
            "code": code,
        }
        self.body = {"error": error}


def read_json(body: bytes) -> Any:
    """The value of a body; ApiError unless its strings are Unicode and its numbers are JSON's."""
    try:
        value = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
        if b"\\u" in body:
            json.dumps(value, ensure_ascii=False).encode()  # raises at half a surrogate pair
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is no JSON in UTF-8 ({error})") from None
    return value


def without_nulls(value: dict[str, Any]) -> dict[str, Any]:
    """The fields that are not null: a null says nothing, whatever the field."""
    return {name: inner for name, inner in value.items() if inner is not None}


def take(fields: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    """A field of exactly this kind."""
    value = fields.pop(name, None)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise bad(name, f"must be {kind.__name__}, got {kind_of(value)}")
    return value


def number(
    fields: dict[str, Any],
    name: str,
    default: float,
    low: float,
    high: float,
    *,
    is_above_low: bool = False,
) -> float:
    """A number from `low` to `high`, `low` itself unless `is_above_low`."""
    value = fields.pop(name, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high or (is_above_low and value == low):
        opening = "(" if is_above_low else "["
        raise bad(name, f"must be a number in {opening}{low:g}, {high:g}], got {shown(value)}")
    return float(value)


def whole(
    fields: dict[str, Any],
    name: str,
    default: int | None,
    low: int | None = None,
    high: int | None = None,
) -> Any:
    """An integer between optional bounds."""
    value = fields.pop(name, None)
    if value is None:
        return default
    if (
        not is_integer(value)
        or (low is not None and value < low)
        or (high is not None and value > high)
    ):
        bounds = "" if low is None else f" of at least {low}"
        bounds += "" if high is None else f" and at most {high}"
        raise bad(name, f"must be an integer{bounds}, got {shown(value)}")
    return value


def refuse_others(fields: dict[str, Any], table: neutral.Table, prefix: str = "") -> None:
    """Raises for the first field that asks for something that is not done here."""
    other = neutral.find_other(fields, table)
    if other is None:
        return
    name, expected = other
    if expected is None:
        raise ApiError(
            400, f"unknown field {prefix}{name}", param=f"{prefix}{name}", code="unknown_parameter"
        )
    raise ApiError(
        400,
        f"{prefix}{name} = {shown(fields[name])} is not supported here: expected {expected} or "
        "nothing",
        param=f"{prefix}{name}",
        code="unsupported_parameter",
    )


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def bad(param: str, problem: str) -> ApiError:
    return ApiError(400, f"{param} {problem}", param=param)


def kind_of(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def shown(value: Any) -> str:
    """A short form of a value of any size and depth."""
    return reprlib.repr(value)


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
