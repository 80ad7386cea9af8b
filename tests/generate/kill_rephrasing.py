"""Kills a rephrasing job against our server at random, and compares it with an unbroken one.

    python tests/generate/kill_rephrasing.py --kills=20

The server is ours, over an engine that answers from a script; the job is the command. It is killed
by SIGKILL at a random number of recorded answers and up to 50 ms more; one in four kills falls
within the start of the process instead. The same command is then given again. The bytes of all that
the job writes are compared; answers, which come in any order, line by line. Nothing that was
recorded may be asked again, and no more may be asked in vain than was under way at a kill. The last
line has the figures. Exit code 1: something differed, or the job ended before the last kill.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import scripted
import served

from kanana_jax import generate

ROOT = Path(__file__).parents[2]
NUM_DOCUMENTS, NUM_CHUNKS, STYLES, CONCURRENCY = 30, 3, ("wiki", "note"), 8
NUM_REQUESTS = NUM_DOCUMENTS * NUM_CHUNKS * len(STYLES)
WRITTEN = ("documents.jsonl", "left_out.jsonl", "report.json")
_CHUNK = "Ann Lee had {} pears. At the market in Oslo she sold each one for {} euros."
_SAID = "Each of the {} pears was sold by Ann Lee for {} euros at the market in Oslo{}."
_TIMEOUT_S = 300


class Slow(scripted.Scripted):
    """Answers so slowly that a kill can come in between."""

    def __init__(self):
        super().__init__(self._rewrite, tokens_per_step=8)
        self.said: list[str] = []

    def _rewrite(self, prompt: str) -> str:
        chunk = prompt.rpartition("<text>")[2]
        found = re.search(r"had (\d+) pears.* for (\d+) euros", chunk, re.DOTALL)
        assert found, prompt
        # The style is in the words, so that every request has an answer of its own.
        self.said.append(
            _SAID.format(*found.groups(), " then" if "learning note" in prompt else "")
        )
        return self.said[-1]

    def step(self):
        time.sleep(0.004)
        return super().step()


def write_documents(path: Path) -> None:
    with path.open("w") as file:
        for one in range(NUM_DOCUMENTS):
            first = 100 + one * NUM_CHUNKS
            chunks = [_CHUNK.format(first + n, 500 + first + n) for n in range(NUM_CHUNKS)]
            file.write(json.dumps({"text": " ".join(chunks)}) + "\n")


def start(documents: Path, out: Path, port: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "kanana_jax.synthesize", str(documents), f"--to={out}"]
    command += [f"--endpoint=http://127.0.0.1:{port}/v1", "--model=small", "--language=en"]
    command += [f"--styles={','.join(STYLES)}", "--chunk-bytes=80", f"--concurrency={CONCURRENCY}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    with out.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)


def recorded(out: Path) -> list[str]:
    """Whole lines of answers."""
    path = out / "answers.jsonl"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def texts(lines: Sequence[str]) -> set[str]:
    return {json.loads(line)["value"]["text"] for line in lines}


def wait_until_recorded(process: subprocess.Popen, out: Path, count: int) -> None:
    end = time.monotonic() + _TIMEOUT_S
    while len(recorded(out)) < count and process.poll() is None:
        assert time.monotonic() < end, f"{len(recorded(out))} of {count} answers"
        time.sleep(0.002)


def finish(process: subprocess.Popen, out: Path) -> None:
    assert process.wait(_TIMEOUT_S) == 0, out.with_suffix(".log").read_text()


def moments(rng: random.Random, kills: int) -> list[int | None]:
    """Numbers of recorded answers; None: while the process starts."""
    drawn: list[int | None] = sorted(rng.sample(range(1, NUM_REQUESTS - 8), kills - kills // 4))
    for _ in range(kills // 4):
        drawn.insert(rng.randrange(len(drawn) + 1), None)
    return drawn


def problems_of(kills: int, seed: int) -> list[str]:
    """What was wrong. Prints a line for every kill, and the figures."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder, engine = Path(name), Slow()
        write_documents(folder / "in.jsonl")
        served.write_model(folder / "model")
        loaded = generate.load(folder / "model")
        with served.Served(loaded, engine=engine, length=4096) as server:

            def begin(out: Path) -> subprocess.Popen:
                return start(folder / "in.jsonl", out, server.port)

            began = time.monotonic()
            unbroken = begin(folder / "unbroken")
            wait_until_recorded(unbroken, folder / "unbroken", 1)
            start_s = time.monotonic() - began
            finish(unbroken, folder / "unbroken")
            return _killed(begin, folder, engine, moments(rng, kills), start_s, rng)


def _killed(begin, folder, engine, drawn, start_s, rng) -> list[str]:
    wanted, out = folder / "unbroken", folder / "killed"
    problems, in_vain, num_killed = [], 0, 0
    for moment in [*drawn, "end"]:
        before, num_said = recorded(out), len(engine.said)
        process = begin(out)
        if moment == "end":
            finish(process, out)
        elif moment is None:
            time.sleep(rng.uniform(0, start_s))
        else:
            wait_until_recorded(process, out, moment)
            time.sleep(rng.uniform(0, 0.05))
        process.kill()
        is_killed = process.wait() == -signal.SIGKILL
        num_killed += is_killed
        # What the server still reads of a connection that is gone belongs to this life.
        time.sleep(0.1)
        said, after = engine.said[num_said:], recorded(out)
        lost = len(said) - (len(after) - len(before))
        in_vain += lost
        print(f"{moment}: {len(after)} recorded, {lost} asked in vain", flush=True)
        again = texts(before) & set(said)
        if again:
            problems.append(f"{len(again)} asked again though recorded: {sorted(again)[0]}")
        if not 0 <= lost <= (CONCURRENCY if is_killed else 0):
            problems.append(f"{lost} asked in vain at {moment}")
    if num_killed < len(drawn):
        problems.append(f"killed {num_killed} times of {len(drawn)}")
    differing = [one for one in WRITTEN if (out / one).read_bytes() != (wanted / one).read_bytes()]
    if differing or sorted(recorded(out)) != sorted(recorded(wanted)):
        problems.append(f"differing: {differing or 'answers.jsonl'}")
    num_kept = len((out / "documents.jsonl").read_text().splitlines())
    if len(recorded(out)) != NUM_REQUESTS or num_kept != NUM_DOCUMENTS * len(STYLES):
        problems.append(f"{len(recorded(out))} answers, {num_kept} rewrites")
    print(f"kills {num_killed}, answers {len(recorded(out))}, asked in vain {in_vain}, "
          f"differing files {len(differing)}")  # fmt: skip
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    problems = problems_of(arguments.kills, arguments.seed)
    for one in problems:
        print(one)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
