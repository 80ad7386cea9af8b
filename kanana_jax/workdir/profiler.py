"""A trace of some steps of a run, which XProf and TensorBoard open."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax


class Profiler:
    """Traces the steps from the first to the last of "first:last", both included, into `folder`.

    A run that goes on from a step between them traces the rest.
    """

    def __init__(self, folder: Path, steps: str):
        first, _, last = steps.partition(":")
        self._folder, self._steps = folder, range(int(first), int(last) + 1) if steps else range(0)
        self._is_tracing = False

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[Callable[[Any], None]]:
        """Wraps one step; yields a function to call with a result of the step."""
        is_traced = number in self._steps
        if is_traced and not self._is_tracing:
            jax.profiler.start_trace(self._folder)
            self._is_tracing = True
        results: list[Any] = []
        with (
            jax.profiler.StepTraceAnnotation("train", step_num=number)
            if is_traced
            else contextlib.nullcontext()
        ):
            yield results.append
        if self._is_tracing and number + 1 not in self._steps:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends the trace where the run ends before the last step to trace."""
        if self._is_tracing:
            jax.profiler.stop_trace()
            self._is_tracing = False
