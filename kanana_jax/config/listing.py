"""Every setting below a configuration in words: path, what it may hold, its value."""

import dataclasses
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

from kanana_jax.config import fields
from kanana_jax.config.ranges import Range


class Setting(NamedTuple):
    """One line of a listing."""

    path: str  # as --set takes it
    holds: str  # type and range: "float in [0, 1]", "one of adamw, muon", "list of text"
    value: Any


def settings(config: Any, prefix: str = "") -> Iterator[Setting]:
    """The settings of `config`, a dataclass, and of the groups in it, in order."""
    kinds: dict[str, Any] = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        path, value = prefix + field.name, getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from settings(value, f"{path}.")
        elif fields.are_groups(value):
            for one in value:
                yield from settings(one, f"{path}.{one.name}.")
        else:
            yield Setting(path, holds(kinds[field.name]), value)


def holds(kind: Any) -> str:
    """What a field of that annotation may hold."""
    origin: Any = typing.get_origin(kind)
    args: Any = typing.get_args(kind)
    if origin is Annotated:
        ranges = [f" in {one}" for one in args[1:] if isinstance(one, Range)]
        return holds(args[0]) + "".join(ranges)
    if origin is Literal:
        return f"one of {', '.join(args)}" if len(args) > 1 else args[0]
    if origin in (types.UnionType, typing.Union):
        return " or ".join(holds(arg) for arg in args)
    if origin is tuple:
        return f"list of {holds(args[0])}"
    if kind is type(None):
        return "none"
    return str({str: "text", bool: "true or false"}.get(kind, kind.__name__))


def table(config: Any) -> str:
    """The listing as aligned text, a setting a line."""
    rows = [(one.path, one.holds, f"{one.value!r}") for one in settings(config)]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(
        f"{path:{widths[0]}}  {what:{widths[1]}}  {value}" for path, what, value in rows
    )
