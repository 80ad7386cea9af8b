"""Token buckets: no more than so many requests, or tokens, a minute.

level(t) = min(burst, level(t0) + rate (t - t0))    n is given once level >= min(n, burst)
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

_BURST_S = 5.0  # of the rate


class Bucket:
    """`per_minute` units; 0: without limit. Takers are served in turn."""

    def __init__(
        self,
        per_minute: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ):
        self._rate = per_minute / 60.0
        self._burst = max(self._rate * _BURST_S, 1.0)
        self._level, self._clock, self._sleep = self._burst, clock, sleep
        self._then = clock()
        self._turn = asyncio.Lock()

    async def take(self, amount: float) -> None:
        """Waits until there is that much. What exceeds a burst leaves a debt behind."""
        if not self._rate:
            return
        async with self._turn:
            needed = min(amount, self._burst)
            self._fill()
            while self._level < needed - 1e-9:
                await self._sleep((needed - self._level) / self._rate)
                self._fill()
            self._level -= amount

    def give_back(self, amount: float) -> None:
        """Gives back what was taken and not used."""
        self._level = min(self._level + amount, self._burst)

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self._level + self._rate * (now - self._then), self._burst)
        self._then = now
