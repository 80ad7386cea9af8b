"""Do runs on this machine repeat bit for bit, and what does that cost? One GPU, one command.

    python -m benchmarks.determinism
    JAX_PLATFORMS=cpu python -m benchmarks.determinism --set=model.num_layers=1 ...

Without and with execution.deterministic, the MuonClip arm of muon_stress_h100 is trained twice,
each time in a process of its own; with it also a third time, killed after its first checkpoint and
started again. All share the token store and, with execution.deterministic, the compiled functions.
A JSON line for each: what differs from the first run, and the median milliseconds of a step.
"""

import dataclasses
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging

from experiments import muon_stress_h100
from kanana_jax.jobs import pretrain
from kanana_jax.report import metrics

_SET = flags.DEFINE_multi_string("set", [], "Edits of the experiment, path=value.")
_MODE = flags.DEFINE_multi_enum(
    "mode",
    ["default", "deterministic"],
    ["default", "deterministic"],
    "Which to measure, in order.",
)
_CHILD = flags.DEFINE_string("child", "", "Train in this directory and do nothing else.")


def described() -> pretrain.Config:
    base = dataclasses.replace(muon_stress_h100.experiment().base, name="determinism")
    edits = ["train.num_steps=80", "train.checkpoint_interval_steps=20", "optimizer.lr=0.01"]
    return base.edited([*edits, *_SET.value])


def start(directory: Path, is_deterministic: bool) -> subprocess.Popen:
    edits = [*_SET.value, f"execution.deterministic={str(is_deterministic).lower()}"]
    if not any(one.startswith("data.cache_dir") for one in edits):
        edits.append(f"data.cache_dir={directory.parent.parent / 'cache'}")
    command = [sys.executable, "-m", "benchmarks.determinism", f"--child={directory}"]
    return subprocess.Popen(
        [*command, *(f"--set={one}" for one in edits)], stdout=subprocess.DEVNULL
    )


def finish(process: subprocess.Popen) -> None:
    if process.wait():
        sys.exit(f"a run ended with exit code {process.returncode}")


def kill_after_checkpoint(process: subprocess.Popen, directory: Path) -> None:
    """Kills some steps after the first checkpoint, so that steps are done again."""
    while not any(path.name.isdigit() for path in directory.glob("run/checkpoints/*")):
        if process.poll() is not None:
            sys.exit("the run ended before its first checkpoint; set more train.num_steps")
        time.sleep(0.01)
    process.kill()
    process.wait()


def records(directory: Path) -> list[dict[str, Any]]:
    lines = (directory / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def arrays(directory: Path) -> dict[str, Any]:
    """What the last checkpoint's manifest says about every array, hashes included."""
    steps = sorted(
        (int(path.parent.name), path) for path in directory.glob("run/*/*/manifest.json")
    )
    return json.loads(steps[-1][1].read_text())["leaves"]


def differences(first: Path, other: Path) -> dict[str, int]:
    """Counts of steps (clock aside) and of arrays that differ, and the first such step."""
    # As text: NaN does not equal itself.
    one, two = ([_without_clock(x) for x in records(path)] for path in (first, other))
    differing = [step for step, (a, b) in enumerate(zip(one, two, strict=True), 1) if a != b]
    wanted, found = arrays(first), arrays(other)
    return {
        "differing_steps": len(differing),
        "first_differing_step": differing[0] if differing else 0,
        "differing_arrays": sum(found[path] != x for path, x in wanted.items()),
    }


def _without_clock(record: dict[str, Any]) -> str:
    return str({name: x for name, x in record.items() if not metrics.is_timing(name)})


def step_ms(directory: Path) -> float:
    clock = [one["seconds"] for one in records(directory)]
    gaps = [after - before for before, after in itertools.pairwise(clock)]
    return round(1000 * statistics.median(gaps[10:]), 2)


def measure(folder: Path, is_deterministic: bool) -> dict[str, Any]:
    first, again, killed = (folder / name for name in ("first", "again", "killed"))
    for directory in (first, again):
        finish(start(directory, is_deterministic))
    found: dict[str, Any] = {
        "step_ms": [step_ms(first), step_ms(again)],
        "again": differences(first, again),
    }
    if is_deterministic:
        kill_after_checkpoint(start(killed, is_deterministic), killed)
        finish(start(killed, is_deterministic))
        found["killed"] = differences(first, killed)
    found["steps"], found["arrays"] = len(records(first)), len(arrays(first))
    return found


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    if _CHILD.value:
        pretrain.run(described(), Path(_CHILD.value))
        return
    with tempfile.TemporaryDirectory() as name:
        for mode in _MODE.value:
            found = measure(Path(name) / mode, mode == "deterministic")
            print(json.dumps({"mode": mode, **found}), flush=True)
    # Only now: a GPU's memory is not shared with the runs.
    print(json.dumps({"device": jax.devices()[0].device_kind, "jax": jax.__version__}))


if __name__ == "__main__":
    app.run(main)
