"""Milliseconds of a call: the median over blocks of calls, after warm-up."""

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import NamedTuple

import jax

BLOCK_S = 0.05  # long enough for the clock and for the wait of a block's first call
NUM_BLOCKS = 7
MAX_CALLS = 20
_COMPILING = 8  # functions at once: a GPU kernel takes seconds, and each waits for a compiler


class Row(NamedTuple):
    """One measurement, or the reason why there is none."""

    case: str
    op: str
    implementation: str
    ms: float | None
    tflops: float | None
    reason: str | None = None
    kept_bytes_per_token: float | None = None  # for the backward pass
    error: float | None = None  # norm of the difference over the norm of the exact result


def compiled(calls: Sequence[tuple[Callable, tuple]]) -> list[Callable]:
    """Compiles (function, arguments) pairs side by side; the calls raise what compiling raised."""

    def compile(function, arguments):
        return jax.jit(function).lower(*arguments).compile()

    def run(future, arguments):
        return future.result()(*arguments)

    with futures.ThreadPoolExecutor(_COMPILING) as pool:
        started = [pool.submit(compile, *call) for call in calls]
    return [
        functools.partial(run, future, arguments)
        for future, (_, arguments) in zip(started, calls, strict=True)
    ]


def measure(run: Callable, wait: Callable) -> float:
    """Milliseconds per run(); wait(result) returns when the device has finished."""
    return measure_in_turn([run], wait)[0]


def measure_in_turn(
    runs: Sequence[Callable], wait: Callable, num_blocks: int = NUM_BLOCKS
) -> list[float]:
    """Milliseconds per call of each run, a block of one after a block of the other.

    Clocks and temperature drift by more than the small differences that this measures.
    """
    calls = [_calls_per_block(run, wait) for run in runs]
    blocks = [[] for _ in runs]
    for _ in range(num_blocks):
        for run, count, times in zip(runs, calls, blocks, strict=True):
            result = None
            start = time.perf_counter()
            for _ in range(count):
                result = run()
            wait(result)
            times.append((time.perf_counter() - start) / count)
    return [1e3 * statistics.median(times) for times in blocks]


def _calls_per_block(run, wait):
    wait(run())
    start = time.perf_counter()
    for _ in range(2):
        wait(run())
    return int(min(MAX_CALLS, max(1, BLOCK_S * 2 // (time.perf_counter() - start))))


def attempt(case: str, op: str, implementation: str, flops: float | None, run, wait) -> Row:
    """A Row of run(); a peer's failure becomes the row's reason and must not end the table."""
    try:
        ms = measure(run, wait)
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        reason = f"{type(error).__name__}: {first_line[:160]}"
        return Row(case, op, implementation, None, None, reason)
    return Row(case, op, implementation, ms, flops and flops / ms / 1e9)
