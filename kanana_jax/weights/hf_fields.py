"""Checks of single fields of a config.json; all raise CheckpointError with the field's name."""

import re
import typing
from typing import Any

from kanana_jax import config
from kanana_jax.checkpoint.errors import CheckpointError, shown


def check_fixed(where: str, fields: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Checks the fields for which this model has one value only."""
    for name, value in wanted.items():
        if fields.get(name) not in (None, value):
            raise CheckpointError(
                f"config.json: {where}{name} must be {value!r} or absent, got "
                f"{shown(fields[name])}; this model has no other kind"
            )


def make(kind: type, values: dict[str, Any], names: dict[str, str]) -> Any:
    """The dataclass `kind`; `names` maps our field names to the file's."""
    _check_types(kind, values, names)
    try:
        return kind(**values)
    except config.ConfigError as error:
        in_their_words = re.sub(
            r"model\.(?:\w+\.)?(\w+)", lambda ours: names.get(ours[1], ours[1]), str(error)
        )
        raise CheckpointError(f"config.json: {in_their_words}") from None


def _check_types(kind: type, values: dict[str, Any], names: dict[str, str]) -> None:
    hints = typing.get_type_hints(kind)
    for ours, value in values.items():
        expected = typing.get_args(hints[ours]) or (hints[ours],)
        # JSON has one kind of number, and Python calls true an int.
        accepted = (*expected, int) if float in expected else expected
        if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in expected):
            kinds = " or ".join(x.__name__ for x in expected)
            raise CheckpointError(
                f"config.json: {names.get(ours, ours)} must be {kinds}, got {shown(value)}"
            )
