"""Goodput: where the time of a run went.

training            all that is in none of the others
compiling           waiting for compiled functions
waiting_for_data    waiting for the next batch
evaluating, saving
skipped, rewound    steps that changed no weight; steps that were undone
"""

import contextlib
import time
from collections.abc import Callable, Iterator

OVERHEADS = ("compiling", "waiting_for_data", "evaluating", "saving", "skipped", "rewound")
PREFIX = "seconds_"


class Clock:
    """Seconds since the run began, over all processes that worked on it, by what they went into."""

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now, self._begin_s, self._earlier_s = now, now(), 0.0
        self._spent_s: dict[str, float] = dict.fromkeys(OVERHEADS, 0.0)

    def continue_from(self, recorded: dict[str, float]) -> None:
        """Adds what earlier processes recorded: the last values of `metrics`."""
        self._earlier_s += recorded.get("seconds", 0.0)
        for name in OVERHEADS:
            self._spent_s[name] += recorded.get(PREFIX + name, 0.0)

    @property
    def seconds(self) -> float:
        return self._earlier_s + self._now() - self._begin_s

    def add(self, name: str, seconds: float) -> None:
        self._spent_s[name] += seconds

    def add_earlier(self, name: str, seconds: float) -> None:
        """As `add`, of what went by before this clock was made."""
        self._earlier_s += seconds
        self.add(name, seconds)

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
