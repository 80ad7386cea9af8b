"""Which streams draw next: pure functions of what is known about all streams.

    slack = seconds of sound handed out - seconds since the first was        of a stream that plays

A stream without slack makes its listener wait; one with much of it loses nothing by a pause. First
come serves the oldest until it ends. Slack puts first the streams that would run dry within
`reserve`, then those that have not begun, oldest first, then the others, least slack first
(after VoxServe's order by playback deadlines, 2026).
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple


class Stream(NamedTuple):
    """What a policy may know of a stream."""

    number: int  # in the order of arrival
    has_row: bool  # of the cache
    began_s: float | None = None  # when its first sound was handed out
    sound_s: float = 0.0  # handed out

    def slack(self, now_s: float) -> float:
        """Seconds until its listener hears nothing; infinite before anything is heard."""
        return float("inf") if self.began_s is None else self.sound_s + self.began_s - now_s


Policy = Callable[[Sequence[Stream], float], list[Stream]]  # of all and the time: most urgent first


def first_come(streams: Sequence[Stream], now_s: float) -> list[Stream]:
    """In the order of arrival."""
    return sorted(streams, key=lambda one: one.number)


def by_slack(reserve_s: float) -> Policy:
    """Those that run dry within `reserve_s` first, then those that wait to be heard."""

    def order(streams: Sequence[Stream], now_s: float) -> list[Stream]:
        def urgency(one: Stream) -> tuple[int, float]:
            slack_s = one.slack(now_s)
            if one.began_s is None:
                return 1, one.number
            return (0, slack_s) if slack_s < reserve_s else (2, slack_s)

        return sorted(streams, key=urgency)

    return order


POLICIES: dict[str, Policy] = {"first_come": first_come, "slack": by_slack(reserve_s=0.25)}


class Turn(NamedTuple):
    """Numbers of the streams that begin, and of all that draw."""

    begins: list[int]
    draws: list[int]


def plan(
    streams: Collection[Stream], now_s: float, policy: Policy, *, width: int, num_free: int
) -> Turn:
    """The next turn: at most `width` streams draw, and at most `num_free` of them are new to the
    cache. A stream keeps its row to its end, so one that finds none free is passed over."""
    begins, draws = [], []
    for one in policy(tuple(streams), now_s):
        if len(draws) == width:
            break
        if not one.has_row:
            if len(begins) == num_free:
                continue
            begins.append(one.number)
        draws.append(one.number)
    return Turn(begins, draws)
