"""Specifications of tables and tools, read from JSON that anyone may have written, and checked.

SpecError says what was expected, what came and where.
"""

import re
from collections.abc import Mapping
from typing import Any

from kanana_jax.rollouts.environments import tables
from kanana_jax.rollouts.environments.tables import KINDS, Action, Spec, SpecError

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_TYPES = ("integer", "string")
_MOST = 12  # tables, fields of one, tools
_FEWEST_ROWS, _MOST_ROWS = 2, 40  # of a table
_LONGEST = 60  # characters of a key or a value
_LONGEST_ABOUT = 300


def to_json(spec: Spec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "about": spec.about,
        "tables": {name: dict(fields) for name, fields in spec.tables.items()},
        "tools": [_action_to_json(one) for one in spec.actions],
        "rows": {name: {key: dict(row) for key, row in rows.items()}
                 for name, rows in spec.rows.items()},
    }  # fmt: skip


def from_json(value: Any) -> Spec:
    """Raises SpecError where anything is missing, of another type, too much, or names nothing."""
    fields = _object(value, "the specification", ("name", "about", "tables", "tools", "rows"))
    found_tables = {
        _name(name, "a table"): _fields(name, one)
        for name, one in _items(fields["tables"], "tables", _MOST)
    }
    actions = tuple(_action(one, found_tables) for one in _list(fields["tools"], "tools"))
    names = [one.name for one in actions]
    if len(names) != len(set(names)):
        raise SpecError(f"tools must have names of their own, got {', '.join(names)}")
    rows = _object(fields["rows"], "rows", tuple(found_tables))
    return Spec(
        name=_name(fields["name"], "name"),
        about=_text(fields["about"], "about", _LONGEST_ABOUT),
        tables=found_tables,
        actions=actions,
        rows={name: _rows(name, rows[name], one) for name, one in found_tables.items()},
    )


def _fields(table: str, value: Any) -> dict[str, tables.Type]:
    found = dict(_items(value, f"fields of {table}", _MOST))
    for name, kind in found.items():
        _name(name, f"a field of {table}")
        if kind not in _TYPES or name in (table, "amount"):
            raise SpecError(
                f"a field of {table} must be of {', '.join(_TYPES)}, and not be called {table} or "
                f"amount, got {name}: {str(kind)[:40]!r}"
            )
    return found


def _action(value: Any, of_tables: Mapping[str, Mapping[str, str]]) -> Action:
    fields = _object(value, "a tool", ("name", "about", "table", "kind"))
    name = _name(fields["name"], "a tool")
    kind, table, field = fields["kind"], fields["table"], fields.get("field", "")
    if kind not in KINDS:
        raise SpecError(f"{name}: kind must be of {', '.join(KINDS)}, got {str(kind)[:40]!r}")
    if not isinstance(table, str) or table not in of_tables:
        raise SpecError(f"{name}: table must be of {', '.join(of_tables)}, got {str(table)[:40]!r}")
    needs_field = kind not in ("create", "delete")
    if needs_field and (not isinstance(field, str) or field not in of_tables[table]):
        raise SpecError(
            f"{name}: field must be of {', '.join(of_tables[table])}, got {str(field)[:40]!r}"
        )
    sign = fields.get("sign", 1)
    if kind == "change" and (of_tables[table][field] != "integer" or sign not in (1, -1)):
        raise SpecError(f"{name}: a change is of an integer field, with a sign of 1 or -1")
    return Action(
        name=name,
        about=_text(fields["about"], f"about of {name}", _LONGEST_ABOUT),
        table=table,
        kind=kind,
        field=field if needs_field else "",
        sign=sign if kind == "change" else 1,
    )


def _rows(table: str, value: Any, fields: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    found = {}
    for key, row in _items(value, f"rows of {table}", _MOST_ROWS):
        given = _object(row, f"the row {key[:40]!r} of {table}", tuple(fields))
        if set(given) != set(fields):
            raise SpecError(f"the row {key[:40]!r} of {table} has fields that the table has not")
        for name, kind in fields.items():
            if type(given[name]) is not {"integer": int, "string": str}[kind]:
                raise SpecError(f"{name} of {key[:40]!r} must be of type {kind}")
            if isinstance(given[name], int) and not 0 <= given[name] <= 10**6:
                raise SpecError(f"{name} of {key[:40]!r} must be from 0 to a million")
        found[_text(key, f"a key of {table}", _LONGEST)] = {
            name: _text(one, name, _LONGEST) if isinstance(one, str) else one
            for name, one in given.items()
        }
    if len(found) < _FEWEST_ROWS:
        raise SpecError(f"{table} must have {_FEWEST_ROWS} rows or more, got {len(found)}")
    return found


def _object(value: Any, what: str, needed: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict) or not set(needed) <= set(value):
        got = ", ".join(map(str, list(value)[:8])) if isinstance(value, dict) else type(value)
        raise SpecError(f"{what} must be an object with {', '.join(needed)}, got {got}")
    return value


def _items(value: Any, what: str, most: int) -> list[tuple[str, Any]]:
    if not isinstance(value, dict) or not 1 <= len(value) <= most:
        raise SpecError(f"{what} must be an object of 1 to {most}, got {str(value)[:60]!r}")
    return list(value.items())


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list) or not 1 <= len(value) <= _MOST:
        raise SpecError(f"{what} must be a list of 1 to {_MOST}, got {str(value)[:60]!r}")
    return value


def _name(value: Any, what: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise SpecError(
            f"{what} must be called by at most 40 letters a to z, digits and _, got "
            f"{str(value)[:40]!r}"
        )
    return value


def _text(value: Any, what: str, longest: int) -> str:
    if not isinstance(value, str) or not 0 < len(value.strip()) <= len(value) <= longest:
        raise SpecError(f"{what} must be a text of 1 to {longest} characters")
    return value


def _action_to_json(one: Action) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": one.name, "about": one.about, "table": one.table, "kind": one.kind,
    }  # fmt: skip
    if one.field:
        found["field"] = one.field
    return found | ({"sign": one.sign} if one.kind == "change" else {})
