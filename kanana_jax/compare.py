"""Finished runs in one report: python -m kanana_jax.compare A B [...] --out=DIR.

A run is a folder with result.json, or a workdir that holds such folders. Each argument is an arm,
named by the last part of its path or by NAME=PATH. Settings that the runs were swept over stay axes
where all runs have them, seeds are told apart, and the report says in which settings arms differ.
Held-out losses are compared where the held-out text is the same. Exit code 2: a run is missing.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kanana_jax import errors, extras

with extras.needed("train"):
    from kanana_jax import config
    from kanana_jax.jobs import curves
    from kanana_jax.report import comparison, results
    from kanana_jax.workdir import provenance

_OF_NO_MATTER = ("name", "question", "train.seed", "data.seed")


def runs_of(argument: str) -> list[results.Run]:
    """The finished runs that an argument names, as an arm; ConfigError where there are none."""
    name, _, path = argument.rpartition("=")
    folder = Path(path).expanduser()
    directories = sorted(file.parent for file in folder.rglob(results.RESULT_NAME))
    if not directories:
        raise config.ConfigError(
            f"expected a finished run or a workdir with some, got {config.shown(path)}; a finished "
            f"run has {results.RESULT_NAME}"
        )
    found = [results.load(one) for one in directories]
    name = name or folder.absolute().name
    arms = {run.arm for run in found}
    return [
        dataclasses.replace(
            run,
            axes={
                **run.axes,
                results.ARM: f"{name}: {run.arm}" if len(arms) > 1 else name,
                results.SEED: run.config.get("train", {}).get("seed", run.seed),
            },
        )
        for run in found
    ]


def differences(runs: Sequence[results.Run]) -> list[tuple[str, str]]:
    """Settings in which arms differ, each with its value by arm."""
    by_arm: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        by_arm.setdefault(run.arm, dict(_flat(provenance.comparable(run.config))))
    paths = dict.fromkeys(path for settings in by_arm.values() for path in settings)
    rows = []
    for path in paths:
        values = {arm: settings.get(path) for arm, settings in by_arm.items()}
        if path not in _OF_NO_MATTER and len(set(map(str, values.values()))) > 1:
            rows.append((path, ", ".join(f"{arm} {value}" for arm, value in values.items())))
    return rows


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in settings.items():
        path = f"{prefix}{name}"
        pairs += _flat(value, f"{path}.") if isinstance(value, Mapping) else [(path, value)]
    return pairs


def write(arguments: Sequence[str], out: Path) -> str:
    """Writes out/report.html; returns its words for a terminal."""
    runs = [run for argument in arguments for run in runs_of(argument)]
    about = provenance.environment() | {
        "config": {
            "name": "comparison",
            "question": f"How do {', '.join(results.arms(runs))} differ?",
            "runs": [str(run.directory) for run in runs],
        }
    }
    lines = [f"{path}: {values}" for path, values in differences(runs)]
    sections = [("Settings that differ", "\n".join(lines) or "None.")]
    path = out / "report.html"
    words = comparison.write(runs, about, path, curves=curves.TRAINING, sections=sections)
    return "\n".join([words, *lines, f"Report: {path}"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m kanana_jax.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="[NAME=]PATH")
    parser.add_argument("--out", default="runs/comparison", help="by default runs/comparison")
    given = parser.parse_args(arguments)
    try:
        print(write(given.runs, Path(given.out)))
    except (errors.UserError, ValueError) as error:
        print(f"kanana_jax: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
