"""Kills one run of a real experiment at random moments, and compares it with an unbroken one.

    python tests/faults/kill_experiment.py --experiment=muon_stress --kills=20

A moment is a random step of the whole experiment and up to a second more; one in four lies within
the start of a process instead, while it imports, reads the text or compiles. The same command is
then given again. Compared are every metric of every step but times, the table printed at the
end and the hash of every array of the last checkpoints. The last line has the figures. Exit code 1:
something differed or was lost, or the run ended before the last kill.

The line before it sets the time of the processes, as seen from here, against the `seconds` that the
runs recorded. Processes that were killed while they started are left out of both. A pipeline has no
such line: each of its processes reads texts, compiles and reports between its runs.
"""

import argparse
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import processes

from kanana_jax.report import metrics

TIMEOUT_S = 3600  # for the steps between two kills


def start(settings: list[str], workdir: Path) -> subprocess.Popen:
    """A process that works in `workdir` and prints into <workdir>.out and <workdir>.err."""
    environment = os.environ | {"PYTHONPATH": str(processes.ROOT), "JAX_PLATFORMS": "cpu"}
    with workdir.with_suffix(".out").open("w") as out, workdir.with_suffix(".err").open("w") as err:
        return subprocess.Popen(
            [sys.executable, "-m", "kanana_jax.main", *settings, f"--workdir={workdir}"],
            cwd=processes.ROOT,
            env=environment,
            stdout=out,
            stderr=err,
        )


def finish(process: subprocess.Popen, workdir: Path) -> None:
    assert process.wait() == 0, workdir.with_suffix(".err").read_text()


def run_dirs(workdir: Path) -> list[Path]:
    return sorted(path.parent for path in workdir.glob("**/metrics.jsonl"))


def num_steps(workdir: Path) -> int:
    """Steps recorded so far, over all runs of the experiment."""
    return sum((path / "metrics.jsonl").read_bytes().count(b"\n") for path in run_dirs(workdir))


def newest_checkpoints(workdir: Path) -> dict[str, int]:
    newest = {}
    for path in workdir.glob("**/checkpoints"):
        steps = [int(one.name) for one in path.iterdir() if one.name.isdigit()]
        newest[str(path.relative_to(workdir))] = max(steps, default=0)
    return newest


def run_unbroken(settings: list[str], workdir: Path) -> float:
    """Seconds until the first step was recorded."""
    began = time.monotonic()
    process = start(settings, workdir)
    processes.wait_until(process, lambda: num_steps(workdir) > 0, TIMEOUT_S)
    first_s = time.monotonic() - began
    finish(process, workdir)
    print(
        f"unbroken: {num_steps(workdir)} steps in {time.monotonic() - began:.0f} s, "
        f"the first after {first_s:.0f} s",
        flush=True,
    )
    return first_s


def moments(rng: random.Random, kills: int, steps: int) -> list[int | None]:
    """When to kill: at a step of the whole experiment, or (None) while a process starts."""
    drawn: list[int | None] = sorted(rng.sample(range(1, steps - 10), kills - kills // 4))
    for _ in range(kills // 4):
        drawn.insert(rng.randrange(len(drawn) + 1), None)
    return drawn


def kill_once(
    settings: list[str], workdir: Path, moment: int | None, start_s: float, rng: random.Random
) -> tuple[bool, float]:
    """Starts a process and kills it at `moment`; whether it was still there to be killed.

    Second, the seconds that it lived, 0 where it was killed as it started.
    """
    began = time.monotonic()
    process = start(settings, workdir)
    if moment is None:
        time.sleep(rng.uniform(0, start_s))
    else:
        processes.wait_until(process, lambda: num_steps(workdir) >= moment, TIMEOUT_S)
        time.sleep(rng.uniform(0, 1))
    process.kill()
    code = process.wait()
    where = "while starting" if moment is None else f"of {moment} or more"
    print(f"killed at {num_steps(workdir)} steps ({where}), exit code {code}", flush=True)
    lived_s = 0.0 if moment is None else time.monotonic() - began
    return code == -signal.SIGKILL, lived_s


def recorded(workdir: Path) -> tuple[float, float]:
    """Seconds of all runs, and of them those that trained and were kept."""
    results = [json.loads((path / "result.json").read_text()) for path in run_dirs(workdir)]
    trained_s = sum(one["seconds"] * one["values"]["goodput"] for one in results)
    return sum(one["seconds"] for one in results), trained_s


def is_pipeline(workdir: Path) -> bool:
    """Whether the record of how it was made is in the folders of stages, and none is above."""
    return not (workdir / "config.json").exists()


def finished_after(workdir: Path, began: float) -> float:
    """Seconds from `began`, in time.time(), until the last run had its result."""
    return max((path / "result.json").stat().st_mtime for path in run_dirs(workdir)) - began


def times(wanted: Path, found: Path, lived_s: float) -> str:
    told_s, trained_s = recorded(found)
    _, unbroken_s = recorded(wanted)
    return (
        f"processes {lived_s:.1f} s, recorded {told_s:.1f} s ({told_s / lived_s - 1:+.1%}); "
        f"goodput {trained_s / told_s:.4f}, {unbroken_s / lived_s:.4f} by the unbroken run's steps"
    )


def table(workdir: Path) -> str:
    """The last table that was printed, up to the line that names the report's path."""
    *tables, _ = workdir.with_suffix(".out").read_text().split("Report: ")
    # Of a pipeline, each stage prints one; the path of the report before stands first.
    return tables[-1].partition("\n")[2] if len(tables) > 1 else tables[-1]


def _untimed(result: dict[str, Any]) -> dict[str, Any]:
    values = {key: x for key, x in result["values"].items() if not metrics.is_timing(key)}
    return result | {"seconds": 0, "values": values}


def _differing(one: list[str], other: list[str]) -> list[str]:
    """The metrics of a step, as `processes.records` has them, that only one of both has so."""
    return sorted(set(one) ^ set(other))


def differences(wanted: Path, found: Path) -> collections.Counter:
    """Counts of what was compared and of what differs."""
    count = collections.Counter()
    for path in run_dirs(wanted):
        other = found / path.relative_to(wanted)
        steps, same = processes.records(path), processes.records(other)
        count["steps"] += len(steps)
        for step in sorted(steps.keys() | same.keys()):
            found_alone = _differing(steps.get(step, []), same.get(step, []))
            count["differing_steps"] += bool(found_alone)
            if found_alone:
                print(f"{path.name}, step {step}: {'; '.join(found_alone)}", flush=True)
        one, two = (json.loads((x / "result.json").read_text()) for x in (path, other))
        count["runs"] += 1
        count["differing_results"] += _untimed(one) != _untimed(two)
        for manifest in path.glob("checkpoints/*/manifest.json"):
            content = json.loads(manifest.read_text())["leaves"]
            twin = other / manifest.relative_to(path)
            leaves = json.loads(twin.read_text())["leaves"] if twin.exists() else {}
            count["arrays"] += len(content)
            count["differing_arrays"] += sum(
                leaf != leaves.get(name) for name, leaf in content.items()
            )
        count["unusable_checkpoints"] += len(list(other.glob("checkpoints/*.unusable*")))
    count["differing_tables"] = int(table(wanted) != table(found))
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", default="muon_stress")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--set", action="append", default=[], help="settings of both runs")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    settings = [f"--experiment={args.experiment}", *(f"--set={one}" for one in args.set)]
    with tempfile.TemporaryDirectory() as name:
        wanted, found = Path(name) / "unbroken", Path(name) / "killed"
        start_s = run_unbroken(settings, wanted)
        lost, kills, began, lived_s = 0, 0, time.monotonic(), 0.0
        for moment in moments(rng, args.kills, num_steps(wanted)):
            before = newest_checkpoints(found)
            was_killed, seconds = kill_once(settings, found, moment, start_s, rng)
            kills, lived_s = kills + was_killed, lived_s + seconds
            after = newest_checkpoints(found)
            lost += sum(after.get(path, 0) < step for path, step in before.items())
        last = time.time()
        finish(start(settings, found), found)
        lived_s += finished_after(found, last)
        count = differences(wanted, found)
        print(table(found))
        if not is_pipeline(found):
            print(times(wanted, found, lived_s))
    count["lost_checkpoints"] = lost + count.pop("unusable_checkpoints")
    count["missing_kills"] = args.kills - kills
    count["seconds"] = round(time.monotonic() - began)
    print(f"kills {kills},", ", ".join(f"{key} {count[key]}" for key in sorted(count)))
    bad = [key for key in count if key.startswith(("differing", "lost", "missing")) and count[key]]
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
