"""Writes benchmarks/README.md from the records next to it.

    python -m benchmarks.readme

A test compares the page with the records, so a new record needs this command once.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PAGE = FOLDER / "README.md"
_MAX_SHOWN = 4  # numbers of a list
_HEAD = """# Records

Each section is a file of this folder, made by a benchmark and changed by nobody.
`python -m benchmarks.readme` makes this page of them. Columns without a unit in their name are
counts or names. An empty cell was not measured; its reason stands beside it.
[docs/performance.md](../docs/performance.md) says what they show.
"""


def records() -> dict[str, Mapping[str, Any]]:
    """By file name, the newest first."""
    paths = sorted(FOLDER.glob("*.json"), key=lambda path: (path.stem[-10:], path.stem))
    return {path.name: json.loads(path.read_text()) for path in reversed(paths)}


def page(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown of all records."""
    return "\n".join([_HEAD, *(_section(name, record) for name, record in found.items())])


def _section(name: str, record: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{what} {number}" for what, number in record["packages"].items())
    device = ", driver ".join(record[key] for key in ("device", "driver") if key in record)
    said = [record[key] for key in ("note", "remark") if record.get(key)]
    return "\n".join(
        [
            f"## {name.removesuffix('.json')}",
            "",
            f"[{name}]({name}): {device}; commit {record['commit'][:12]}; {versions}.",
            *said,
            "",
            "```sh",
            record["command"],
            "```",
            "",
            _table(record["rows"]),
        ]
    )


def _table(rows: Iterable[Mapping[str, Any]]) -> str:
    flat = [_flat(row) for row in rows]
    columns = list(dict.fromkeys(key for row in flat for key in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[_shown(row.get(column)) for column in columns] for row in flat]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as `outer.inner`."""
    made: dict[str, Any] = {}
    for key, value in row.items():
        name = prefix + key
        made |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return made


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    if isinstance(value, list) and len(value) > _MAX_SHOWN:
        return f"{_shown(value[0])} ... {_shown(value[-1])} ({len(value)} numbers)"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return str(value).replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    PAGE.write_text(page(records()))
