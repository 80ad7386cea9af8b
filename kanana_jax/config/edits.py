"""Settings as text: typed `path=value` edits of nested dataclasses, JSON, differences."""

import dataclasses
import json
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal

from kanana_jax.config import fields
from kanana_jax.config.fields import ConfigError, cut, nearest, shown, some


def edit(config: Any, edits: Iterable[str]) -> Any:
    """Returns `config` with each `path=value` applied, the value read by its field's type.

    Lists are written a,b or as JSON, ["a,b.txt"]; text may be JSON too, "" for none. Of two values
    for one path the later holds, but a list may not be given twice. In a list of named groups the
    name selects one: stages.NAME.tokens=64. Settings are checked once all edits are in. Raises
    ConfigError when a path names no field, or a value does not fit it or the others.
    """
    changes: dict[str, Any] = {}
    for text in edits:
        path, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise ConfigError(
                f"an edit looks like path=value, e.g. optimizer.lr=0.01; got {shown(text)}"
            )
        *groups, name = path.split(".")
        level, target = changes, config
        for group in groups:
            target = _inside(target, group, path)
            level = level.setdefault(group, {})
            if not isinstance(level, dict):
                raise ConfigError(f"{path} is given twice: {group} is set as a whole too")
        if isinstance(target, tuple):
            inside = [field.name for field in dataclasses.fields(target[0])]
            raise ConfigError(f"{path} is a group of settings; set one of its {some(inside, 12)}")
        kind = _kind_of(target, name, path)
        if dataclasses.is_dataclass(getattr(target, name)):
            inside = [field.name for field in dataclasses.fields(getattr(target, name))]
            raise ConfigError(f"{path} is a group of settings; set one of its {some(inside, 12)}")
        if name in level and typing.get_origin(kind) is tuple:
            raise ConfigError(f"{path} is given twice; give it once, as {path}=a,b")
        level[name] = parse(kind, value, path)
    return _replace(config, changes)


def _inside(target: Any, group: str, path: str) -> Any:
    """The group of settings, or list of such groups, that `target` calls `group`."""
    if isinstance(target, tuple):
        names = {one.name: one for one in target}
        if group not in names:
            raise ConfigError(f"unknown setting {shown(path)}: there are {some(names, 12)}")
        return names[group]
    _kind_of(target, group, path)
    found = getattr(target, group)
    if not dataclasses.is_dataclass(found) and not fields.are_groups(found):
        raise ConfigError(f"unknown setting {shown(path)}: {group} is a value, not a group")
    return found


def _kind_of(config: Any, name: str, path: str) -> Any:
    kinds = typing.get_type_hints(type(config))
    if name not in kinds:
        raise ConfigError(
            f"unknown setting {shown(path)}: {type(config).__name__} has {nearest(name, kinds, 8)}"
        )
    return kinds[name]


def _replace(config: Any, changes: dict[str, Any]) -> Any:
    if isinstance(config, tuple):
        return tuple(_replace(one, changes.get(one.name, {})) for one in config)
    new = {
        name: _replace(getattr(config, name), change) if isinstance(change, dict) else change
        for name, change in changes.items()
    }
    return dataclasses.replace(config, **new)


def parse(kind: Any, text: str, path: str) -> Any:
    """Reads `text` as `kind`: a scalar, Literal, optional or tuple of these."""
    if not text:  # most often an unset shell variable
        raise ConfigError(f'{path} is given an empty value; "" is empty text, [] an empty list')
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if text not in args:
            raise ConfigError(f"{path} must be one of {', '.join(args)}; got {shown(text)}")
        return text
    if origin in (types.UnionType, typing.Union):
        if type(None) in args and text.lower() in ("none", "null"):
            return None
        inner, words = fields.alternatives(args)
        if text in words:
            return text
        with fields.naming(words):
            return parse(inner, text, path)
    if origin is tuple:
        if text[0] == "[" and text[-1] == "]":
            return _revived(kind, _from_json(text, path))
        if dataclasses.is_dataclass(args[0]):
            raise ConfigError(f"{path} must be a JSON list of groups, got {shown(text)}")
        return tuple(parse(args[0], part.strip(), path) for part in text.split(","))
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"{path} must be true or false; got {shown(text)}")
        return text.lower() == "true"
    if kind not in (int, float, str):
        raise ConfigError(f"{path} cannot be given as text; edit the experiment's function")
    if kind is str and len(text) > 1 and text[0] == text[-1] == '"':
        return _from_json(text, path)
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{path} must be of type {kind.__name__}; got {shown(text)}") from None


def _from_json(text: str, path: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} must be JSON, got {shown(text)} ({error})") from None


def to_json(config: Any) -> str:
    return json.dumps(dataclasses.asdict(config), indent=2)


def diff(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Lines "path: old -> new" for the settings in which two `asdict` forms differ."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after, path = old.get(key), new.get(key), f"{prefix}{key}"
        if isinstance(before, dict) and isinstance(after, dict):
            lines += diff(before, after, f"{path}.")
        elif before != after:
            lines.append(f"{path}: {cut(str(before))} -> {cut(str(after))}")
    return lines


def from_json(kind: type, content: dict[str, Any]) -> Any:
    """The dataclass `kind` from what `to_json` made of one; the inverse of `dataclasses.asdict`.

    Raises ConfigError where `content` lacks a setting that has no default, has one that `kind`
    does not know, or one that does not fit.
    """
    kinds = typing.get_type_hints(kind)
    unknown = sorted(content.keys() - kinds.keys())
    if unknown:
        raise ConfigError(f"{kind.__name__} has no {some(unknown)}; it has {some(kinds, 40)}")
    try:
        return kind(**{name: _revived(kinds[name], value) for name, value in content.items()})
    except TypeError as error:
        raise ConfigError(f"{kind.__name__}: {error}") from None


def _revived(kind: Any, value: Any) -> Any:
    """Dataclasses out of dicts, tuples out of lists."""
    if isinstance(value, list):
        (inner, *_) = typing.get_args(kind) or (Any,)
        return tuple(_revived(inner, one) for one in value)
    if isinstance(value, dict):
        for one in (kind, *typing.get_args(kind)):
            if isinstance(one, type) and dataclasses.is_dataclass(one):
                return from_json(one, value)
    return value
