"""Tools that a specification names, over a state of tables. A model may write the specification.

    {"name": "library", "about": "Books and their readers.",
     "tables": {"book": {"shelf": "string", "copies": "integer"}},
     "tools": [{"name": "lend", "about": "Takes copies of a book away", "table": "book",
                "kind": "change", "field": "copies", "sign": -1}, ...],
     "rows": {"book": {"Emma": {"shelf": "A", "copies": 3}, ...}}}

A specification is data: this module reads it and executes none of it. A tool is of one of six
kinds, which decides its parameters and what it does:

    read     (key)             the field of a row            find     (value)   the keys of rows
    set      (key, value)      a field anew                  create   (key, fields ...)
    change   (key, amount)     an integer more or less,      delete   (key)
                               never less than 0

A call may fail by chance, as services do. A share, the seed of the state and the number of the
call decide, so that the same calls fail the same way.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from kanana_jax.errors import UserError
from kanana_jax.rollouts import tools
from kanana_jax.rollouts.tools import MistakeError, Tool, Type

Kind = Literal["read", "find", "set", "change", "create", "delete"]
KINDS: tuple[Kind, ...] = get_args(Kind)
BUSY = "error: the service is busy, try again"
_MOST_ROWS = 40  # of a table
_LONGEST = 60  # characters of a name, a key and a value
_MOST_READS = 64
State = dict[str, Any]


class SpecError(UserError):
    """A specification that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Action:
    """A tool of a specification. `sign` is that of a change."""

    name: str
    about: str
    table: str
    kind: Kind
    field: str = ""
    sign: int = 1


@dataclass(frozen=True, kw_only=True)
class Spec:
    name: str
    about: str
    tables: Mapping[str, Mapping[str, Type]]  # the types of the fields
    actions: tuple[Action, ...]
    rows: Mapping[str, Mapping[str, Mapping[str, Any]]]  # by table and key

    def state(self, seed: int = 0, failing: float = 0.0) -> State:
        """The state before the first call; a share `failing` of the calls will fail."""
        tables = {
            table: {key: dict(row) for key, row in rows.items()}
            for table, rows in self.rows.items()
        }
        return {"tables": tables, "reads": [], "calls": 0, "seed": seed, "failing": failing}

    @functools.cached_property
    def tools(self) -> dict[str, Tool]:
        return tools.by_name(*(_tool(one, self.tables[one.table]) for one in self.actions))


def lasting(state: Any) -> Any:
    """The part of a state that lasts: the tables."""
    return state.get("tables") if isinstance(state, dict) else None


def _tool(action: Action, fields: Mapping[str, Type]) -> Tool:
    run, parameters = _RUN[action.kind], _parameters(action, fields)

    def function(state: State, **arguments: Any) -> str:
        number = state["calls"]
        state["calls"] = number + 1
        if _fails(state["seed"], number, state["failing"]):
            return BUSY
        return run(action, state, state["tables"][action.table], **arguments)

    return Tool(
        name=action.name, description=action.about, parameters=parameters, function=function
    )


def _parameters(action: Action, fields: Mapping[str, Type]) -> dict[str, Type]:
    found: dict[str, Type] = {}
    if action.kind != "find":
        found[action.table] = "string"
    if action.kind in ("find", "set"):
        found[action.field] = fields[action.field]
    if action.kind == "change":
        found["amount"] = "integer"
    if action.kind == "create":
        found.update(fields)
    return found


def _fails(seed: int, number: int, share: float) -> bool:
    digest = hashlib.blake2b(f"{seed} {number}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) < share * 2**32


def _row(action: Action, rows: Mapping[str, Any], key: str) -> dict[str, Any]:
    if key not in rows:
        raise MistakeError(f"no {action.table} {key[:_LONGEST]!r}")
    return rows[key]


def _note(state: State, action: Action, what: Any) -> None:
    state["reads"] = [*state["reads"], [action.name, what]][-_MOST_READS:]


def _read(action: Action, state: State, rows: Any, **given: Any) -> str:
    key = given[action.table]
    value = _row(action, rows, key)[action.field]
    _note(state, action, key)
    return str(value)


def _find(action: Action, state: State, rows: Any, **given: Any) -> str:
    value = given[action.field]
    _note(state, action, value)
    return ", ".join(key for key, row in rows.items() if row[action.field] == value) or "none"


def _set(action: Action, state: State, rows: Any, **given: Any) -> str:
    _row(action, rows, given[action.table])[action.field] = _fitting(given[action.field])
    return "done"


def _change(action: Action, state: State, rows: Any, **given: Any) -> str:
    row, amount = _row(action, rows, given[action.table]), given["amount"]
    if amount < 1:
        raise MistakeError("amount must be 1 or more")
    after = row[action.field] + action.sign * amount
    if after < 0:
        raise MistakeError(f"{action.field} is only {row[action.field]}")
    row[action.field] = after
    return f"{action.field} {after}"


def _create(action: Action, state: State, rows: Any, **given: Any) -> str:
    key = given.pop(action.table)
    if key in rows or not key.strip():
        raise MistakeError(f"there is {key[:_LONGEST]!r} already")
    if len(rows) >= _MOST_ROWS:
        raise MistakeError(f"there is no room for another {action.table}")
    rows[_fitting(key)] = {name: _fitting(value) for name, value in given.items()}
    return "done"


def _delete(action: Action, state: State, rows: Any, **given: Any) -> str:
    _row(action, rows, given[action.table])
    del rows[given[action.table]]
    return f"{len(rows)} left"


_RUN: Mapping[Kind, Callable[..., str]] = {
    "read": _read,
    "find": _find,
    "set": _set,
    "change": _change,
    "create": _create,
    "delete": _delete,
}


def _fitting(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _LONGEST:
        raise MistakeError(f"a text of more than {_LONGEST} characters")
    return value
