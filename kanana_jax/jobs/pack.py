"""Runs of one shape that train at once: their steps are one vmapped step.

Each run stays what it is: a thread of its own goes through `train.fit` with its own folder, data,
checkpoints, measurements and stops. Only its call of the step waits until the others of the pack
have made theirs. A slot whose run has ended computes what another does and throws it away: one
program serves to the end, and a run gets the same numbers whoever shares the step.
"""

import concurrent.futures
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from kanana_jax import config
from kanana_jax.batch import Batch
from kanana_jax.train import several, state, step_functions


class Request(NamedTuple):
    """What one run gives the step."""

    state: state.TrainState
    batch: Batch
    lr: float


def check(
    num_stages: int,
    num_steps: int,
    lora: config.LoraConfig,
    objective: Any,
    num_devices: int,
) -> None:
    """Raises ConfigError where a run cannot share its step with others."""
    reasons = {
        f"one device, got {num_devices}": num_devices > 1,
        f"one stage, got {num_stages}": num_stages > 1,
        "whole models, got adapters": bool(lora.rank),
        "an objective that reads no other model": bool(objective.frozen or objective.teaching),
        "steps, got train.num_steps = 0": not num_steps,
    }
    for needed, is_wrong in reasons.items():
        if is_wrong:
            raise config.ConfigError(f"a pack of runs needs {needed}; set pack=1")


class Pack:
    """The step that several runs share. Every run has a slot, and leaves it when it ends."""

    def __init__(self, step: several.Step, size: int):
        self._step, self._size = step, size
        self._turn = threading.Condition()
        self._live = set(range(size))
        self._asked: dict[int, Request] = {}
        self._given: dict[int, several.Taken | Exception] = {}

    def take(self, slot: int, request: Request) -> several.Taken:
        """The step of one run, once all others have asked for theirs."""
        with self._turn:
            self._asked[slot] = request
            self._compute_if_all_asked()
            self._turn.wait_for(lambda: slot in self._given)
            found = self._given.pop(slot)
        if isinstance(found, Exception):
            raise found
        return found

    def leave(self, slot: int) -> None:
        """Says that a run asks for nothing more."""
        with self._turn:
            self._live.discard(slot)
            self._compute_if_all_asked()

    def _compute_if_all_asked(self) -> None:
        if not self._asked or self._asked.keys() != self._live:
            return
        asked, self._asked = self._asked, {}
        some = next(iter(asked.values()))
        requests = [asked.get(slot, some) for slot in range(self._size)]
        try:
            taken: Sequence[Any] = self._step(*zip(*requests, strict=True))
        except Exception as error:  # each run raises it, in its own thread
            taken = [error] * self._size
        self._given |= {slot: taken[slot] for slot in asked}
        self._turn.notify_all()


def train(
    steps: step_functions.Steps,
    mesh: Any,
    size: int,
    runs: Sequence[Callable[[step_functions.Steps], Any]],
) -> list[Any]:
    """Calls all `runs` at once, each with the functions it trains with; returns what each returns.

    There are `size` slots, which may be more than runs. When all have ended, raises the error of
    the first run that failed.
    """
    pack = Pack(several.build(steps.cfg, mesh, size), size)
    for slot in range(len(runs), size):
        pack.leave(slot)

    def alone(slot: int) -> Any:
        def step(before, batch, lr, frozen):
            return pack.take(slot, Request(before, batch, lr))

        try:
            return runs[slot](steps._replace(train=step))
        finally:
            pack.leave(slot)

    with concurrent.futures.ThreadPoolExecutor(len(runs)) as pool:
        futures = [pool.submit(alone, slot) for slot in range(len(runs))]
    return [future.result() for future in futures]
