"""Runs work on items in parallel, and yields the results in the order of the items."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable


async def in_order[Item, Made](
    items: Iterable[Item], work: Callable[[Item], Awaitable[Made]], *, window: int
) -> AsyncIterator[Made]:
    """At most `window` items are begun and not yielded yet; an exception ends all of them."""
    waiting: asyncio.Queue[asyncio.Task[Made]] = asyncio.Queue()
    source = iter(items)
    try:
        while True:
            while waiting.qsize() < window:
                try:
                    item = next(source)
                except StopIteration:
                    break
                waiting.put_nowait(asyncio.ensure_future(work(item)))
            if waiting.empty():
                return
            first = waiting.get_nowait()
            try:
                yield await first
            except BaseException:
                first.cancel()
                raise
    finally:
        left = [waiting.get_nowait() for _ in range(waiting.qsize())]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
