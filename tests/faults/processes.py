"""Starts, watches and hurts processes of the tiny run."""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from kanana_jax.report import metrics

ROOT = Path(__file__).parents[2]
TINY = Path(__file__).with_name("tiny_run.py")


@dataclasses.dataclass(frozen=True)
class Lab:
    """The text to train on, and the folder of compiled functions that all processes share."""

    text: Path
    compiled: Path

    def start(self, workdir: Path, *edits: str, **environment: str) -> subprocess.Popen:
        """DEVICES is the number of devices of the process; see tiny_run.py for the others."""
        settings = [f"--workdir={workdir}", *(f"--set={one}" for one in edits)]
        of_process = {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": environment.pop("DEVICES", "1"),
            # A second start then takes seconds.
            "JAX_COMPILATION_CACHE_DIR": str(self.compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "TEXT": str(self.text),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "kanana_jax.main", f"--experiment={TINY}", *settings],
            cwd=ROOT,
            env=os.environ | of_process | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start_several(
        self, num_processes: int, workdir: Path, *edits: str, **environment: str
    ) -> list[subprocess.Popen]:
        """Processes of one program, each with DEVICES of its own."""
        return [self.start(workdir, *edits, **one, **environment) for one in joined(num_processes)]

    def run(self, workdir: Path, *edits: str, **environment: str) -> tuple[int, str]:
        """Exit code and what was printed, once it has ended by itself."""
        process = self.start(workdir, *edits, **environment)
        _, shown = process.communicate(timeout=300)
        return process.returncode, shown


def joined(num_processes: int) -> list[dict[str, str]]:
    """The variables by which processes on this machine find each other, for each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    several = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(num_processes)}
    return [several | {"JAX_PROCESS_ID": str(process)} for process in range(num_processes)]


def ends(started: list[subprocess.Popen]) -> list[tuple[int, str]]:
    """Exit code and what was printed, of each, once all have ended by themselves."""
    with concurrent.futures.ThreadPoolExecutor(len(started)) as pool:  # a full pipe would block
        shown = list(pool.map(lambda process: process.communicate(timeout=300)[1], started))
    return [(process.returncode, text) for process, text in zip(started, shown, strict=True)]


def last_step(workdir: Path) -> int:
    """The newest step in the metrics file; 0 before the first."""
    path = workdir / "run" / "metrics.jsonl"
    found = re.findall(r'^\{"step": (\d+)', path.read_text() if path.exists() else "", re.M)
    return int(found[-1]) if found else 0


def num_sessions(workdir: Path) -> int:
    """How many processes have begun to work in the directory."""
    path = workdir / "sessions.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait_for_session(process: subprocess.Popen, workdir: Path, number: int) -> None:
    """Returns when that many processes have begun, or this one has ended."""
    wait_until(process, lambda: num_sessions(workdir) >= number)


def wait_for_step(process: subprocess.Popen, workdir: Path, step: int) -> None:
    """Returns when `step` is recorded or the process has ended."""
    wait_until(process, lambda: last_step(workdir) >= step)


def wait_for_checkpoint(process: subprocess.Popen, workdir: Path, step: int) -> None:
    """Returns when a checkpoint of `step` or later exists or the process has ended."""
    wait_until(process, lambda: max(saved_steps(workdir), default=0) >= step)


def wait_until(
    process: subprocess.Popen, is_reached: Callable[[], bool], timeout_s: float = 300
) -> None:
    """Returns when `is_reached` or the process has ended."""
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and not is_reached():
        assert time.monotonic() < deadline, "the run does not get there"
        time.sleep(0.005)


def send(process: subprocess.Popen, number: signal.Signals) -> tuple[int, str]:
    process.send_signal(number)
    _, shown = process.communicate(timeout=300)
    return process.returncode, shown


def losses(workdir: Path) -> dict[int, list[str]]:
    """`records` of the only run in `workdir`."""
    return records(workdir / "run")


def records(run: Path) -> dict[int, list[str]]:
    """Everything recorded of each step but times, as text: equal means equal to the bit."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return {
        one["step"]: sorted(
            f"{key} {value}" for key, value in one.items() if not metrics.is_timing(key)
        )
        for one in map(json.loads, lines)
    }


def hashes(workdir: Path, step: int) -> dict[str, dict[str, str]]:
    """The hashes of every array of a checkpoint: parameters, optimizer, clip, router bias."""
    path = workdir / "run" / "checkpoints" / str(step) / "manifest.json"
    return {name: x["chunks"] for name, x in json.loads(path.read_text())["leaves"].items()}


def saved_steps(workdir: Path) -> list[int]:
    folder = workdir / "run" / "checkpoints"
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def leftovers(workdir: Path) -> list[str]:
    """What lies beside the checkpoints: half-written ones and such that failed verification."""
    folder = workdir / "run" / "checkpoints"
    return sorted(path.name for path in folder.glob("*") if not path.name.isdigit())


def fill(path: Path, leave_bytes: int = 0) -> None:
    """Writes on in `path` until the disk takes no more, and then gives `leave_bytes` back."""
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    os.truncate(path, path.stat().st_size - leave_bytes)


@contextlib.contextmanager
def read_only(folder: Path):
    """Inside, opening a file of `folder` for writing is refused; files that are open stay open."""
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def events(workdir: Path) -> list[str]:
    """The kinds of events in the order in which they happened."""
    path = workdir / "run" / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["kind"] for line in lines]
