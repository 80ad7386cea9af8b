"""Proxy runs, from their folders or from a table, as `token_axis` reads them.

A folder is a run's (result.json), or holds several, as the working directory of a comparison does.
A table is a csv with the columns tokens, lr and loss, and run where several runs share a rate.
"""

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kanana_jax import config
from kanana_jax.laws import token_axis
from kanana_jax.laws.errors import LawError
from kanana_jax.report import results

AVERAGED = "heldout_bpb_average"
COLUMNS = ("tokens", "lr", "loss")
# Compared runs may differ in these groups only in _MAY_DIFFER.
_GROUPS = ("model", "data", "optimizer", "stages")
_MAY_DIFFER = ("optimizer.lr", "data.seed", "data.cache_dir")


class Curve(NamedTuple):
    """The losses of one run by the tokens that it had read."""

    name: str
    rate: float
    loss_of: dict[float, float]


def load(paths: Sequence[Path], *, arm: str | None = None, metric: str = AVERAGED):
    """(Proxies, notes) of run folders, or of one csv. LawError says what stands in the way."""
    tables = [path for path in paths if path.suffix == ".csv"]
    if tables and (len(paths) > 1 or arm is not None):
        raise LawError(f"give one csv alone and without an arm, or run folders; got {paths}")
    notes: list[str] = []
    curves = of_table(tables[0]) if tables else of_folders(paths, arm, metric, notes)
    return joined(curves, notes), notes


def joined(curves: Sequence[Curve], notes: list[str]) -> token_axis.Proxies:
    """The proxies, at the budgets at which all curves were measured."""
    if not curves:
        raise LawError("no run is left to fit")
    common = set.intersection(*(set(one.loss_of) for one in curves))
    longest = max(len(one.loss_of) for one in curves)
    if len(common) < longest:
        notes.append(f"{len(common)} of {longest} budgets were measured by every run")
    tokens = sorted(common)
    if not tokens:
        raise LawError(
            "the runs were measured at no budget in common; evaluate all at the same tokens"
        )
    losses = [[one.loss_of[at] for at in tokens] for one in curves]
    return token_axis.Proxies(
        np.array([one.rate for one in curves]), np.array(tokens, float), np.array(losses, float)
    )


def of_table(path: Path) -> list[Curve]:
    """Curves of a csv. LawError names a row that holds no numbers."""
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise LawError(f"cannot read {path}: {error}") from error
    missing = [name for name in COLUMNS if not rows or name not in rows[0]]
    if missing:
        raise LawError(f"{path} must have the columns {', '.join(COLUMNS)}; it lacks {missing}")
    curves: dict[tuple[float, str], Curve] = {}
    for number, row in enumerate(rows, start=2):
        try:
            tokens, rate, loss = (float(row[name]) for name in COLUMNS)
        except (TypeError, ValueError):
            raise LawError(f"{path}, line {number}: expected numbers, got {row}") from None
        name = f"lr {rate:g} {row.get('run') or ''}".strip()
        curve = curves.setdefault((rate, name), Curve(name, rate, {}))
        if tokens in curve.loss_of:
            raise LawError(
                f"{path}, line {number}: {name} has a loss at {tokens:g} tokens already; tell runs "
                "of one rate apart by a column run"
            )
        curve.loss_of[tokens] = loss
    return list(curves.values())


def of_folders(
    paths: Iterable[Path], arm: str | None, metric: str, notes: list[str]
) -> list[Curve]:
    """Curves of finished runs at constant rates that differ in rate and seed alone."""
    runs = [results.load(folder) for path in paths for folder in _run_folders(path)]
    names = results.arms(runs)
    if arm is not None:
        if arm not in names:
            raise LawError(f"--arm must be one of {', '.join(names)}; got {arm!r}")
        runs = results.select(runs, arm=arm)
    elif len(names) > 1 and any(results.ARM in run.axes for run in runs):
        raise LawError(f"the runs are of several arms; choose one of {', '.join(names)} by --arm")
    for run in runs:
        if run.diverged:
            notes.append(f"{run.directory.name} diverged and is left out")
    runs = [run for run in runs if not run.diverged]
    curves = [_curve(run, metric) for run in runs]
    _expect_alike(runs)
    return curves


def _run_folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise LawError(f"expected a run folder or a csv, got {path}")
    found = sorted(one.parent for one in path.rglob(results.RESULT_NAME))
    if not found:
        raise LawError(f"{path} holds no finished run (no {results.RESULT_NAME})")
    return found


def _curve(run: results.Run, metric: str) -> Curve:
    cfg = run.config
    name = run.directory.name
    schedule = cfg["optimizer"]["schedule"]["name"]
    if schedule != "constant":
        raise LawError(
            f"{name} has optimizer.schedule.name = {schedule}: losses on the way of a decay are of "
            "other states of the rate than its end; train proxies with constant"
        )
    series = run.series(metric).finite()
    if not len(series.steps_N):
        raise LawError(
            f"{name} recorded no {metric}; train proxies with train.average.every_tokens, or read "
            "the newest weights by --metric=heldout_bpb"
        )
    per_step = cfg["data"]["batch_size"] * cfg["data"]["seq_len"]
    pairs = zip(series.steps_N, series.values_N, strict=True)
    loss_of = {float(step * per_step): float(value) for step, value in pairs if step}
    return Curve(name, float(cfg["optimizer"]["lr"]), loss_of)


def _expect_alike(runs: Sequence[results.Run]) -> None:
    for run in runs:
        if run.config.get("stages"):
            raise LawError(
                f"{run.directory.name} has stages, of which each has a rate or a batch of its own; "
                "train proxies without"
            )
    for run in runs[1:]:
        found = config.diff(_compared(runs[0].config), _compared(run.config))
        found = [one for one in found if not one.startswith(_MAY_DIFFER)]
        if found:
            raise LawError(
                f"proxies may differ in rate and seed alone, but {runs[0].directory.name} and "
                f"{run.directory.name} do in {'; '.join(found)}"
            )


def _compared(cfg: Any) -> dict[str, Any]:
    return {name: cfg[name] for name in _GROUPS if name in cfg} | {
        "average": cfg.get("train", {}).get("average", math.nan)
    }
