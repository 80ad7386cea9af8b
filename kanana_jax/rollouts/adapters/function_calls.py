"""Function calls of the data files of bfcl-eval (Apache-2.0): which call answers a request?

    kanana_jax.rollouts.adapters.function_calls:FAMILY
    level 1: one function is offered    2: several    3: several calls of one function
    reward = [the calls are, in any order, ones that a gold call allows]

A gold call lists the values that each argument may have; "" says that it may be left out.
Nothing is executed and no code of the package is imported. The name of the function decides the
side of the split, so held-out functions are never called in training.
"""

import functools
import importlib.util
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kanana_jax.config import ConfigError
from kanana_jax.rollouts import task, tools
from kanana_jax.rollouts.adapters import call_matching
from kanana_jax.rollouts.task import Score, Task, TaskFamily
from kanana_jax.rollouts.tasks.problem import Language
from kanana_jax.rollouts.tools import Message

_FILES = {
    1: ("simple_python", "live_simple"),
    2: ("multiple", "live_multiple"),
    3: ("parallel", "live_parallel"),
}
_TYPES = {"dict": "object", "float": "number", "tuple": "array"}
NAME = f"{__name__}:FAMILY"


@functools.cache
def _rows(level: int) -> tuple[Task, ...]:
    """Without the few gold calls that allow no call, because some arguments have no value."""
    folder = _folder()
    found = []
    for name in _FILES[level]:
        golds = {row["id"]: row["ground_truth"] for row in _read(folder / "possible_answer", name)}
        for row in _read(folder, name):
            gold = golds[row["id"]]
            called = {function for one in gold for function in one}
            if len(called) == 1 and len(row["question"]) == 1:
                found.append(_task(level, row, gold, called.pop()))
    return tuple(one for one in found if _verify(one, one.oracle, None).reward == 1.0)


def _folder() -> Path:
    spec = importlib.util.find_spec("bfcl_eval")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "expected the data files of bfcl-eval, which is not installed; "
            "pip install --no-deps bfcl-eval (BUILD.md, Install)"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def _read(folder: Path, name: str) -> list[dict[str, Any]]:
    text = (folder / f"BFCL_v4_{name}.json").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _task(level: int, row: Mapping[str, Any], gold: Sequence[Any], name: str) -> Task:
    made = [tools.call(name, **call_matching.first(one[name])) for one in gold]
    return Task(
        family=NAME,
        language="en",
        level=level,
        content=f"function {name}",
        messages=tuple(row["question"][0]),
        tools=tuple({"type": "function", "function": _as_schema(one)} for one in row["function"]),
        goal={"calls": gold},
        oracle=(task.assistant("", tool_calls=made),),
    )


def _as_schema(value: Any) -> Any:
    """With the names of types that JSON schemas have."""
    if isinstance(value, list):
        return [_as_schema(one) for one in value]
    if not isinstance(value, dict):
        return value
    found = {name: _as_schema(one) for name, one in value.items()}
    if isinstance(kind := found.get("type"), str):
        found["type"] = _TYPES.get(kind, kind)
    return found


def _draw(rng: random.Random, language: Language, level: int) -> Task:
    if language != "en":
        raise ConfigError(f"expected English, in which these tasks are, got {language!r}")
    return rng.choice(_rows(level))


def _verify(given: Task, messages: Sequence[Message], state: Any) -> Score:
    made = messages[0].get("tool_calls") if len(messages) == 1 else None
    made = made if isinstance(made, list) else []
    right = float(call_matching.matches(made, given.goal["calls"]))
    called = float(bool(made))
    return Score(reward=right, parts={"calls": right, "called": called})


FAMILY = TaskFamily(name=NAME, levels=(1, 2, 3), draw=_draw, verify=_verify)
