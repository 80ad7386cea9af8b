"""Goals that are certain to be reachable: calls are drawn, and run in a simulator that never fails.

goal = calls, the tables after them, what was looked up, what has to be said
"""

import dataclasses
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kanana_jax.rollouts import tools
from kanana_jax.rollouts.environments import tables
from kanana_jax.rollouts.environments.tables import Action, Spec, State

_MOST_TRIES = 50
_MOST_AMOUNT = 3


@dataclass(frozen=True, kw_only=True)
class Goal:
    steps: tuple[str, ...]  # in words, for the model that writes what the user wants
    calls: tuple[dict[str, Any], ...]
    tables: Mapping[str, Any]  # after the calls
    reads: tuple[Any, ...]
    says: tuple[str, ...]  # what the user has to be told
    values: tuple[str, ...]  # that the user's words must have
    content: str  # decides the goal, whatever the rows were, and whether it is held out


def varied(spec: Spec, seed: int) -> Spec:
    """The specification with other numbers in its rows, and each field's texts in another order."""
    rng = random.Random(seed)
    rows = {name: _shuffled(of_table, rng) for name, of_table in spec.rows.items()}
    return dataclasses.replace(spec, rows=rows)


def _shuffled(rows: Mapping[str, Mapping[str, Any]], rng: random.Random) -> dict[str, Any]:
    keys = rng.sample(sorted(rows), len(rows))
    found: dict[str, dict[str, Any]] = {key: {} for key in keys}
    for name in next(iter(rows.values())):
        values = [row[name] for row in rows.values()]
        for key, value in zip(keys, rng.sample(values, len(values)), strict=True):
            found[key][name] = value if isinstance(value, str) else rng.randint(3, 9)
    return found


def drawn(spec: Spec, names: Sequence[str], size: int, seed: int) -> Goal | None:
    """`size` calls of the named tools; None if no calls that work one after another were found."""
    rng, state = random.Random(seed), spec.state()
    chosen = [one for one in spec.actions if one.name in names]
    calls: list[dict[str, Any]] = []
    steps, says, values = [], [], []
    for _ in range(_MOST_TRIES):
        if len(calls) == size:
            break
        action = rng.choice(chosen)
        arguments = _arguments(action, spec, state, rng)
        if arguments is None:
            continue
        call = tools.call(action.name, **arguments)
        (result,), after = tools.run(spec.tools, state, [call])
        said, is_new = result["content"], call not in calls
        if said.startswith("error: ") or said == "none" or not is_new:
            continue
        state = after
        calls.append(call)
        steps.append(f"{action.about} ({_listed(arguments)})")
        values += map(str, arguments.values())
        if action.kind in ("read", "find"):
            says += said.split(", ")
    if len(calls) < size:
        return None
    return Goal(
        steps=tuple(steps),
        calls=tuple(calls),
        tables=tables.lasting(state),
        reads=tuple(state["reads"]),
        says=tuple(says),
        values=tuple(values),
        content=json.dumps([spec.name, calls]),
    )


def _arguments(
    action: Action, spec: Spec, state: State, rng: random.Random
) -> dict[str, Any] | None:
    """Arguments to call it with; None if the state has none."""
    rows = state["tables"][action.table]
    if not rows:
        return None
    key = rng.choice(sorted(rows))
    values = sorted({row[action.field] for row in rows.values()}) if action.field else []
    match action.kind:
        case "find":
            return {action.field: rng.choice(values)}
        case "change":
            return {action.table: key, "amount": rng.randint(1, _MOST_AMOUNT)}
        case "set":
            others = [one for one in values if one != rows[key][action.field]]
            return {action.table: key, action.field: rng.choice(others)} if others else None
        case "create":
            fields = {name: rows[key][name] for name in spec.tables[action.table]}
            return {action.table: f"{key} {rng.randint(2, 9)}", **fields}
        case _:
            return {action.table: key}


def _listed(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in arguments.items())
