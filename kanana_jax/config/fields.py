"""What a setting may hold: stated in its annotation, checked when the dataclass is built.

    num_steps: Annotated[int, Range(1, 2**31 - 1, "it is counted in int32")] = 1000

An annotation may carry constraints, functions (value, name) -> value that raise ConfigError or
return the value in its normal form.
"""

import contextlib
import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from kanana_jax.errors import UserError

_SHOWN_CHARS = 60  # of one value in a message


class ConfigError(UserError, ValueError):
    """A setting that cannot be used; the message says what was expected."""


def check(config: Any, group: str) -> None:
    """Raises ConfigError unless every field of `config` holds what its annotation says.

    For __post_init__; `group` is where an experiment holds this dataclass, "optimizer.schedule".
    """
    for name, kind in _kinds(type(config)).items():
        path = f"{group}.{name}" if group else name
        # Frozen, but this is still its construction.
        object.__setattr__(config, name, _read(kind, getattr(config, name), path))


@functools.cache
def _kinds(dataclass: type) -> dict[str, Any]:
    return typing.get_type_hints(dataclass, include_extras=True)


def _read(kind: Any, value: Any, name: str) -> Any:
    """`value` in its normal form; raises ConfigError where it is not of `kind`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        value = _read(args[0], value, name)
        for constraint in args[1:]:
            value = constraint(value, name)
        return value
    if origin in (types.UnionType, typing.Union):
        return _read_any_of(args, value, name)
    if origin is Literal:
        if not isinstance(value, str) or value not in args:
            raise ConfigError(f"{name} must be one of {', '.join(args)}; got {shown(value)}")
        return value
    if kind is Any:
        return value
    wanted = origin or kind
    if not _is_a(value, wanted):
        raise ConfigError(
            f"{name} must be of type {wanted.__name__}, got {shown(value)} of type "
            f"{type(value).__name__}"
        )
    if origin is tuple:
        return tuple(_read(args[0], one, f"{name}[{i}]") for i, one in enumerate(value))
    return value


def _read_any_of(kinds: tuple, value: Any, name: str) -> Any:
    """`_read` for an optional setting, or for one that may also be one of some words."""
    if value is None and type(None) in kinds:
        return None
    inner, words = alternatives(kinds)
    if isinstance(value, str) and value in words:
        return value
    with naming(words):
        return _read(inner, value, name)


def alternatives(kinds: tuple) -> tuple[Any, list[str]]:
    """The kinds of a union besides None: one kind, and the words that may stand for it."""
    literals = [kind for kind in kinds if typing.get_origin(kind) is Literal]
    (inner,) = (kind for kind in kinds if kind is not type(None) and kind not in literals)
    return inner, [word for kind in literals for word in typing.get_args(kind)]


@contextlib.contextmanager
def naming(words: list[str]) -> Iterator[None]:
    """Inside, a ConfigError says that `words` could be given too."""
    try:
        yield
    except ConfigError as error:
        if not words:
            raise
        raise ConfigError(f"{error}; or give {' or '.join(words)}") from None


def _is_a(value: Any, kind: type) -> bool:
    """isinstance, but an int is a float too, and a bool is no number."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (float, int) if kind is float else kind)


@functools.cache
def names(dataclass: type) -> frozenset[str]:
    """The paths of all settings below `dataclass`, and of their groups."""
    found = set()
    for name, kind in typing.get_type_hints(dataclass).items():
        found.add(name)
        for inner in (kind, *typing.get_args(kind)):
            if dataclasses.is_dataclass(inner) and typing.get_origin(kind) is not tuple:
                found |= {f"{name}.{below}" for below in names(inner)}
    return frozenset(found)


def are_groups(value: Any) -> bool:
    """Whether `value` is a list of groups of settings, which are told apart by their names."""
    return isinstance(value, tuple) and bool(value) and dataclasses.is_dataclass(value[0])


def nearest(name: str, known: Iterable[str], most: int) -> str:
    """Those of `known` that are spelled most like `name`, for a message."""
    name = name[:_SHOWN_CHARS]

    def distance(other: str) -> float:
        return 1.0 - difflib.SequenceMatcher(None, name, other).ratio()

    return some(sorted(known, key=lambda other: (distance(other), other)), most)


def shown(value: Any) -> str:
    """A value in a message: its repr on one line, cut in the middle where it is long."""
    try:
        return cut(" ".join(repr(value).split()))
    except ValueError:  # an int of more digits than Python prints
        return f"a huge {type(value).__name__}"


def cut(text: str) -> str:
    """`text` without its middle where it is too long for a message."""
    half = _SHOWN_CHARS // 2
    return text if len(text) <= _SHOWN_CHARS else f"{text[:half]}...{text[-half:]}"


def some(names: Iterable[str], most: int = 5) -> str:
    """The first few of a list of names, and how many more there are."""
    names = list(names)
    more = len(names) - most
    return ", ".join(map(cut, names[:most])) + (f" and {more} more" if more > 0 else "")
