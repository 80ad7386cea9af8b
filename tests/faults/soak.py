"""Hurts tiny runs at random for a while, and compares each with one that nothing happened to.

    python tests/faults/soak.py --seconds=1800 --faults=kill,stop,flip,truncate,delete

Every process is hurt after a random number of steps: killed, asked to stop, or killed with one file
of its newest checkpoint damaged. Rounds go on until the time is over; the last line has the
figures. Exit code 1: something differed or was lost.
"""

import argparse
import collections
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import processes

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny_jobs

NUM_STEPS = 80
EDITS = (f"train.num_steps={NUM_STEPS}", "train.keep_checkpoints=3")


def damage(workdir: Path, fault: str, rng: random.Random) -> bool:
    """Hurts a file of the newest checkpoint, if there is an older one to fall back to."""
    steps = processes.saved_steps(workdir)
    if len(steps) < 2 or (workdir / "run" / "result.json").exists():
        return False
    folder = workdir / "run" / "checkpoints" / str(steps[-1])
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    if not paths:  # hurt again and again before a process came to look at it
        return False
    path = rng.choice(paths)
    raw = bytearray(path.read_bytes())
    if fault == "delete":
        path.unlink()
    elif fault == "truncate":
        os.truncate(path, rng.randrange(len(raw)))
    else:
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        path.write_bytes(raw)
    return True


def hurt_once(lab, workdir: Path, fault: str, rng: random.Random, count: dict[str, int]) -> None:
    """Starts a process, waits for a random step and does `fault`; checks what must hold then."""
    sessions = processes.num_sessions(workdir)
    process = lab.start(workdir, *EDITS, STEP_S="0.03")
    before = processes.saved_steps(workdir)
    # Before this, python's own handler answers a signal, and the steps recorded are old ones.
    processes.wait_for_session(process, workdir, sessions + 1)
    processes.wait_for_step(process, workdir, (before or [0])[-1] + rng.randint(1, 15))
    time.sleep(rng.uniform(0, 0.1))
    number = signal.SIGTERM if fault == "stop" else signal.SIGKILL
    code, shown = processes.send(process, number)
    if code == -signal.SIGKILL or fault == "stop":
        count[fault] += 1
    if (fault == "stop" and code) or code not in (0, -signal.SIGKILL):
        count["bad_exits"] += 1
        print(f"{fault} answered with {code}: {shown}")
    if before and before[-1] > (processes.saved_steps(workdir) or [0])[-1]:
        count["lost_checkpoints"] += 1
    if fault not in ("kill", "stop"):
        count["damaged"] += damage(workdir, fault, rng)


def one_round(lab, workdir: Path, wanted: Path, faults: list[str], rng, count) -> None:
    while not (workdir / "run" / "result.json").exists():
        hurt_once(lab, workdir, rng.choice(faults), rng, count)
    steps, found = processes.losses(wanted), processes.losses(workdir)
    count["set_aside"] += processes.events(workdir).count("checkpoint_unusable")
    count["steps"] += len(steps)
    count["differing_steps"] += sum(found.get(step) != line for step, line in steps.items())
    final, last = (processes.hashes(one, NUM_STEPS) for one in (wanted, workdir))
    count["differing_arrays"] += sum(last.get(name) != one for name, one in final.items())
    count["rounds"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--faults", default="kill,stop,flip,truncate,delete")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, count = random.Random(args.seed), collections.Counter()
    until = time.monotonic() + args.seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lab = processes.Lab(tiny_jobs.write_text(folder / "words.txt"), folder / "compiled")
        code, shown = lab.run(folder / "unbroken", *EDITS)
        assert code == 0, shown
        while not count["rounds"] or time.monotonic() < until:
            workdir = folder / f"round{count['rounds']}"
            one_round(lab, workdir, folder / "unbroken", args.faults.split(","), rng, count)
    bad = ("bad_exits", "lost_checkpoints", "differing_steps", "differing_arrays")
    print("soak:", ", ".join(f"{key} {count[key]}" for key in sorted({*count, *bad})))
    return int(any(count[key] for key in bad))


if __name__ == "__main__":
    sys.exit(main())
