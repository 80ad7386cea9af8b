"""Goodput: where the time of a run went.

training            all that is in none of the others
starting            from the start of a process to its first step, compiling left out
compiling           waiting for compiled functions
waiting_for_data    waiting for the next batch
evaluating, saving
skipped, rewound    steps that changed no weight; steps that were undone
lost                steps that a killed process had done and the next one did again, and what it
                    did after its last record

The time between two processes is in none of these, nor is the time of a process that was killed
before it had opened the run.
"""

import contextlib
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping

OVERHEADS = (
    "starting", "compiling", "waiting_for_data", "evaluating", "saving", "skipped", "rewound",
    "lost",
)  # fmt: skip
PREFIX = "seconds_"
_ALIVE_NAME, _ALIVE_INTERVAL_S = "alive", 0.25


class Clock:
    """Seconds since the run began, over all processes that worked on it, by what they went into."""

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now, self._begin_s, self._earlier_s = now, now(), 0.0
        self._spent_s: dict[str, float] = dict.fromkeys(OVERHEADS, 0.0)
        self._spent_here_s = 0.0  # on overheads since it was made

    def continue_from(
        self, newest: Mapping[str, float], kept: Mapping[str, float], alive_s: float = 0.0
    ) -> None:
        """Adds what earlier processes spent.

        `newest` is the last record of `metrics`, `kept` the record of the step from which the run
        goes on, and `alive_s` the seconds of the run when a process was last known to work.
        """
        seen_s = newest.get("seconds", 0.0)
        self._earlier_s += max(seen_s, alive_s)
        for name in OVERHEADS:
            self._spent_s[name] += newest.get(PREFIX + name, 0.0)
        undone_s = max(0.0, _trained_s(newest) - _trained_s(kept))
        self._spent_s["lost"] += undone_s + max(0.0, alive_s - seen_s)

    def started(self) -> None:
        """Counts the time since the clock was made, without the overheads in it, as starting."""
        self.add("starting", self._now() - self._begin_s - self._spent_here_s)

    @property
    def seconds(self) -> float:
        return self._earlier_s + self._now() - self._begin_s

    def add(self, name: str, seconds: float) -> None:
        self._spent_s[name] += seconds
        self._spent_here_s += seconds

    def add_earlier(self, name: str, seconds: float) -> None:
        """As `add`, for time before this clock was made."""
        self._earlier_s += seconds
        self._spent_s[name] += seconds

    @contextlib.contextmanager
    def spent(self, name: str) -> Iterator[None]:
        begin_s = self._now()
        try:
            yield
        finally:
            self.add(name, self._now() - begin_s)

    @property
    def overhead_s(self) -> float:
        return sum(self._spent_s.values())

    def metrics(self) -> dict[str, float]:
        """`seconds` in all and of each overhead, and `goodput`, the share that trained."""
        total = self.seconds
        found = {PREFIX + name: seconds for name, seconds in self._spent_s.items()}
        goodput = max(0.0, 1.0 - self.overhead_s / total) if total > 0 else 0.0
        return {"seconds": total, **found, "goodput": goodput}


def _trained_s(recorded: Mapping[str, float]) -> float:
    return recorded.get("seconds", 0.0) - sum(recorded.get(PREFIX + name, 0) for name in OVERHEADS)


def process_age_s() -> float:
    """Seconds since this process started; 0 where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        started = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        uptime_s = float(pathlib.Path("/proc/uptime").read_text().split()[0])
        return uptime_s - int(started) / os.sysconf("SC_CLK_TCK")
    return 0.0


class _Uncounted:
    """The time of this process that no run has counted yet, inside of `counting`."""

    since_s: float | None = None


@contextlib.contextmanager
def counting(earlier_s: float = 0.0) -> Iterator[None]:
    """Inside, the time before and between runs is counted for the next run.

    So are `earlier_s` seconds before it. Inside another `counting` it does nothing.
    """
    if _Uncounted.since_s is not None:
        yield
        return
    _Uncounted.since_s = time.monotonic() - earlier_s
    try:
        yield
    finally:
        _Uncounted.since_s = None


def take_uncounted() -> float:
    """Returns the seconds that are not counted yet, and marks them as counted."""
    since_s, now_s = _Uncounted.since_s, time.monotonic()
    if since_s is None:
        return 0.0
    _Uncounted.since_s = now_s
    return now_s - since_s


@contextlib.contextmanager
def kept_alive(directory: pathlib.Path, clock: Clock) -> Iterator[None]:
    """Inside, a file in `directory` says several times a second how long the run has taken."""
    done = threading.Event()

    def write() -> None:
        while not done.wait(_ALIVE_INTERVAL_S):
            with contextlib.suppress(OSError):  # a full disk is reported elsewhere
                (directory / _ALIVE_NAME).write_text(f"{clock.seconds:.3f}\n")

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def alive_s(directory: pathlib.Path) -> float:
    """What the file of `kept_alive` says; 0 where there is none, or half of one."""
    with contextlib.suppress(OSError, ValueError):
        line = (directory / _ALIVE_NAME).read_text()
        return float(line) if line.endswith("\n") else 0.0
    return 0.0
