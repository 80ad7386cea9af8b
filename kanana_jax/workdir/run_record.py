"""What the folder of a run says about it, so that no other run is taken for it or written over it.

run.json       axes, configuration and what auto stands for; the tokenizer's file in the workdir
saved.json     the newest step that was saved as a checkpoint
result.json    how it ended
"""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kanana_jax import checkpoint, config
from kanana_jax.report import metrics, progress, results
from kanana_jax.workdir import provenance

RUN_NAME, SAVED_NAME = "run.json", "saved.json"


class Run(NamedTuple):
    """One training run: where it lies on the axes of a comparison, its settings, its folder."""

    axes: dict[str, Any]  # "arm", settings by their path, "seed"
    config: config.TrainingConfig
    directory: Path

    @property
    def label(self) -> str:
        return " ".join(axis_words(name, value) for name, value in self.axes.items())


def axis_words(name: str, value: Any) -> str:
    """A place on an axis for a progress bar or a table: "MuonClip", "lr 0.01", "seed 3"."""
    if name == "arm":
        return str(value)
    shown = progress.rate(value) if isinstance(value, float) else value
    return f"{name.rpartition('.')[2]} {shown}"


def check(one: Run, experiment: str, *, is_changed: bool) -> None:
    """Raises unless the run's folder and checkpoints are its own, and the run can go on.

    ConfigError when they are another run's or further than `one` is to go; NoUsableCheckpointError
    when checkpoints were made and are gone. `is_changed` as for `begin`. Writes nothing.
    """
    _check_identity(one)
    if is_finished(one) and not _is_stale(one, is_changed):
        return
    where = checkpoint.place_of(one.config.train.checkpoint_dir, experiment, one.directory)
    newest, last = checkpoint.newest_step(where), one.config.train.num_steps
    if newest is not None and newest > last:
        raise config.ConfigError(
            f"train.num_steps = {last} is less than the {newest} steps that {one.directory} has "
            f"done; set at least {newest}, or choose another --workdir"
        )
    if newest is None and saved_step(one.directory) and not one.config.resume.restart:
        raise checkpoint.NoUsableCheckpointError(
            f"{one.directory} was saved at step {saved_step(one.directory)}, and {where} holds no "
            "checkpoint; put its checkpoints back, or train from the first step by "
            "--set=resume.restart=true, which keeps its metrics beside the new ones"
        )


def _check_identity(one: Run) -> None:
    found = _read(one.directory / RUN_NAME).get("axes", one.axes)
    if found != one.axes:
        raise config.ConfigError(
            f"{one.directory} holds the run of {_shown(found)}, not that of {_shown(one.axes)}; "
            "choose another --workdir, or give the values that it was begun with"
        )


def _shown(axes: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value!r}" for key, value in axes.items())


def is_finished(one: Run) -> bool:
    return (one.directory / results.RESULT_NAME).exists()


def _is_stale(one: Run, is_changed: bool) -> bool:
    """Whether the run was begun with other settings than `one` has."""
    saved = _read(one.directory / RUN_NAME).get("config")
    if saved is None:
        return is_changed
    own = json.loads(config.to_json(one.config))
    return provenance.comparable(saved) != provenance.comparable(own)


def begin(
    one: Run,
    experiment: str,
    tokenizer: str,
    *,
    is_changed: bool,
    chosen: Mapping[str, Any] | None = None,
) -> None:
    """Makes the folder the run's; sets aside what other settings or lost checkpoints left.

    `tokenizer` names its file in the working directory. `is_changed` says that the experiment's
    settings differ from before, for folders that do not say which settings they were begun with.
    `chosen` is what the settings came to here, for whoever reads the record.
    """
    one.directory.mkdir(parents=True, exist_ok=True)
    if _is_stale(one, is_changed):
        _keep_aside(one.directory / metrics.METRICS_NAME, is_moved=False)
        (one.directory / results.RESULT_NAME).unlink(missing_ok=True)
    where = checkpoint.place_of(one.config.train.checkpoint_dir, experiment, one.directory)
    if not is_finished(one) and saved_step(one.directory) and not checkpoint.newest_step(where):
        _keep_aside(one.directory / metrics.METRICS_NAME, is_moved=True)
        (one.directory / SAVED_NAME).unlink()
    content = {
        "axes": one.axes,
        "tokenizer": tokenizer,
        "config": json.loads(config.to_json(one.config)),
        "chosen": dict(chosen or {}),
    }
    provenance.write_whole(one.directory / RUN_NAME, json.dumps(content, indent=2))


def _keep_aside(path: Path, *, is_moved: bool) -> None:
    """Gives metrics.jsonl a second name, metrics-1.jsonl or the next that is free."""
    if not path.exists() or not path.stat().st_size:
        return
    number = 1
    while (aside := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
        number += 1
    if is_moved:
        os.replace(path, aside)
    else:
        aside.write_bytes(path.read_bytes())


def saved_step(directory: Path) -> int:
    """The newest step that was saved as a checkpoint; 0 when none was."""
    return _read(directory / SAVED_NAME).get("step", 0)


def note_saved(directory: Path, step: int) -> None:
    """Called once a checkpoint exists; a disk that takes no more does not undo it."""
    with contextlib.suppress(OSError):
        provenance.write_whole(directory / SAVED_NAME, json.dumps({"step": step}))


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}
