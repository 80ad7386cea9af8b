"""Simulators made from specifications: what tools do, how they fail, what is refused."""

import copy
import json

import pytest

from kanana_jax.rollouts import tools
from kanana_jax.rollouts.environments import table_specs, tables
from kanana_jax.rollouts.environments.tables import SpecError
from kanana_jax.rollouts.tools import call

SHELVES = {
    "name": "shelves",
    "about": "Cups on shelves.",
    "tables": {"cup": {"shelf": "string", "count": "integer"}},
    "tools": [
        {"name": "shelf", "about": "a", "table": "cup", "kind": "read", "field": "shelf"},
        {"name": "on", "about": "a", "table": "cup", "kind": "find", "field": "shelf"},
        {"name": "move", "about": "a", "table": "cup", "kind": "set", "field": "shelf"},
        {"name": "take", "about": "a", "table": "cup", "kind": "change", "field": "count",
         "sign": -1},
        {"name": "new", "about": "a", "table": "cup", "kind": "create"},
        {"name": "drop", "about": "a", "table": "cup", "kind": "delete"},
    ],
    "rows": {"cup": {"Red": {"shelf": "A", "count": 2}, "Blue": {"shelf": "A", "count": 5}}},
}  # fmt: skip


@pytest.fixture
def spec():
    return table_specs.from_json(copy.deepcopy(SHELVES))


def _ran(spec, *calls, **state):
    results, after = tools.run(spec.tools, spec.state(**state), calls)
    return [one["content"] for one in results], after


@pytest.mark.parametrize(
    ("one", "result", "rows"),
    [
        (call("shelf", cup="Red"), "A", {}),
        (call("on", shelf="A"), "Red, Blue", {}),
        (call("on", shelf="B"), "none", {}),
        (call("move", cup="Red", shelf="B"), "done", {"Red": {"shelf": "B", "count": 2}}),
        (call("take", cup="Blue", amount=4), "count 1", {"Blue": {"shelf": "A", "count": 1}}),
        (call("take", cup="Red", amount=3), "error: count is only 2", {}),
        (call("take", cup="Red", amount=-1), "error: amount must be 1 or more", {}),
        (call("take", cup="Old", amount=1), "error: no cup 'Old'", {}),
        (call("new", cup="Old", shelf="C", count=1), "done", {"Old": {"shelf": "C", "count": 1}}),
        (call("new", cup="Red", shelf="C", count=1), "error: there is 'Red' already", {}),
        (call("new", cup="x" * 61, shelf="C", count=1), "error: a text of more than 60 characters",
         {}),
        (call("drop", cup="Red"), "1 left", {"Red": None}),
        (call("shelf", cup=3), "error: cup must be of type string", {}),
    ],
)  # fmt: skip
def test_a_tool_does_what_its_kind_says(spec, one, result, rows):
    results, after = _ran(spec, one)
    wanted = {**SHELVES["rows"]["cup"], **rows}
    wanted = {key: row for key, row in wanted.items() if row is not None}
    assert results == [result] and tables.lasting(after) == {"cup": wanted}
    assert spec.state()["tables"] == SHELVES["rows"]  # a state is a copy


def test_what_was_looked_up_is_noted(spec):
    calls = [call("shelf", cup="Red"), call("on", shelf="A"), call("drop", cup="Red")]
    assert _ran(spec, *calls)[1]["reads"] == [["shelf", "Red"], ["on", "A"]]


def test_calls_fail_by_chance_and_the_same_ones_again(spec):
    calls = [call("shelf", cup="Red")] * 16
    seen = [_ran(spec, *calls, seed=seed, failing=0.25)[0] for seed in range(64)]
    shares = sum(results.count(tables.BUSY) for results in seen) / (64 * 16)
    assert shares == pytest.approx(0.25, abs=0.05)  # 4 standard errors are .054
    assert seen[3] == _ran(spec, *calls, seed=3, failing=0.25)[0] != seen[4]
    assert tables.BUSY not in _ran(spec, *calls)[0]
    moved = call("move", cup="Red", shelf="B")
    results, after = _ran(spec, moved, seed=1, failing=1.0)
    assert results == [tables.BUSY] and tables.lasting(after) == SHELVES["rows"]


def test_a_specification_goes_through_json(spec):
    assert table_specs.to_json(spec) == SHELVES
    assert table_specs.from_json(json.loads(json.dumps(SHELVES))) == spec


def _without(value, *path):
    value = copy.deepcopy(value)
    inner = value
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return value


def _with(value, new, *path):
    value = copy.deepcopy(value)
    inner = value
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = new
    return value


BAD = {
    "must be an object with name": [SHELVES],
    "with name, about, tables": _without(SHELVES, "rows"),
    "called by at most 40 letters": _with(SHELVES, "__import__", "tools", 0, "name"),
    "names of their own": _with(SHELVES, "on", "tools", 0, "name"),
    "kind must be of read": _with(SHELVES, "exec", "tools", 0, "kind"),
    "table must be of cup": _with(SHELVES, "plate", "tools", 0, "table"),
    "field must be of shelf, count": _with(SHELVES, "owner", "tools", 0, "field"),
    "a change is of an integer field": _with(SHELVES, "shelf", "tools", 3, "field"),
    "a sign of 1 or -1": _with(SHELVES, 2, "tools", 3, "sign"),
    "must be of integer, string": _with(SHELVES, "float", "tables", "cup", "count"),
    "count of 'Red' must be of type integer": _with(SHELVES, True, "rows", "cup", "Red", "count"),
    "from 0 to a million": _with(SHELVES, -1, "rows", "cup", "Red", "count"),
    "fields that the table has not": _with(SHELVES, 1, "rows", "cup", "Red", "owner"),
    "2 rows or more": _without(SHELVES, "rows", "cup", "Red"),
    "a text of 1 to 300": _with(SHELVES, "", "about"),
    "a list of 1 to 12": _with(SHELVES, [], "tools"),
}


@pytest.mark.parametrize("message", BAD)
def test_a_specification_that_cannot_be_used_is_refused_with_its_reason(message):
    with pytest.raises(SpecError, match=message):
        table_specs.from_json(BAD[message])
