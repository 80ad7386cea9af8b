"""The training loop, the same for every job: batch, step, record, evaluate, save, stop, rewind.

Batches are a pure function of their number and a checkpoint holds everything else, so calling `fit`
again on the same folder continues where a killed run stopped, with the same numbers. Several
processes make this call together: all train and save, process 0 writes everything else.
"""

import bisect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import jax
from jax.sharding import Mesh

from kanana_jax import config, model, optim, parallel
from kanana_jax.batch import Batch
from kanana_jax.train import state, step_functions
from kanana_jax.train import step as step_lib


class Source(Protocol):
    """Where batches come from. `batch` gives the rows of this process, `parallel.local_rows`."""

    @property
    def fingerprint(self) -> str: ...

    def batch(self, number: int, weights: model.Weights) -> Batch:
        """Batch `number`, from 0: always the same. Stored data ignore the weights."""
        ...


class Folder(Protocol):
    """What the loop needs of a run's folder; `kanana_jax.workdir.Workdir` is one.

    `clock.spent(name)` and `profiler.step(number)` are context managers; `checkpoints` restores
    the newest state; `trouble_step` is the step, if any, from which training cannot go on.
    """

    clock: Any
    profiler: Any
    checkpoints: Any

    @property
    def trouble_step(self) -> int | None: ...
    def report(self, kind: str, message: str, /) -> None: ...
    def begin(self, step: int) -> None: ...
    def rewind(self, step: int) -> None: ...
    def record(self, number: int, entry: dict[str, Any]) -> None: ...
    def is_asked_to_stop(self) -> bool: ...
    def save(self, step: int, state: Any, notes: dict[str, Any], *, is_last: bool) -> None: ...


def _nothing(of: Any) -> Mapping[str, Any]:
    return {}


class Evaluator(NamedTuple):
    """A measurement of the weights, or of batches. Arrays are kept at the end of a stage only.

    Its result `x` with the error `x_stderr` becomes `x_average` and `x_average_stderr` for the
    averaged weights, where there are some.
    """

    name: str
    every: int  # steps; the last step of the run and of a stage is always due
    measure: Callable[[model.Weights], Mapping[str, Any]] = _nothing
    # Of the batches up to this one, counted from 1; a continued run asks for some again.
    of_batch: Callable[[int], Mapping[str, Any]] = _nothing


class Position(NamedTuple):
    """A point of a run: the state after `step` updates, and which data comes next.

    The next batch is number `step + skipped_batches`; going back leaves the bad batches out
    by raising `skipped_batches`.
    """

    state: Any
    step: int = 0
    skipped_batches: int = 0
    rewinds: int = 0

    def notes(self, run: "Run") -> dict[str, Any]:
        """What a checkpoint holds besides the state."""
        return {
            "skipped_batches": self.skipped_batches,
            "rewinds": self.rewinds,
            "mesh": dict(run.mesh.shape),
            "base": run.base,
        }


class Outcome(NamedTuple):
    """How a run ended, and at which step."""

    status: Literal["ok", "diverged", "stopped"]
    step: int


class Stage(NamedTuple):
    """Batches that one compiled step trains on. Stages share the state."""

    last_batch: int  # counted from 1, over all stages
    batch_size: int
    steps: step_functions.Steps
    evaluators: Sequence[Evaluator]


class Run(NamedTuple):
    """What one run trains with. `start` gives the state before the first step."""

    stages: Sequence[Stage]
    mesh: Mesh
    source: Source
    start: Callable[[], state.TrainState]
    train: config.TrainConfig
    guard: config.GuardConfig
    lr: float
    frozen: step_lib.Frozen
    base: str = ""  # a name for the frozen model that the trained weights belong to; empty: none

    def stage_of(self, batch: int) -> int:
        """The index of the stage of `batch`, a number from 1; the last stage goes on for ever."""
        ends = [stage.last_batch for stage in self.stages[:-1]]
        return bisect.bisect_left(ends, batch)


def fit(workdir: Folder, run: Run) -> Outcome:
    """Trains in `workdir` until done, stopped or diverged."""
    at = _latest(workdir, run)
    workdir.begin(at.step)
    if not run.train.num_steps:
        return _measure(workdir, run, at)
    max_rewinds = run.guard.max_rewinds if run.guard.enabled else 0
    while True:
        outcome = _advance(workdir, run, at)
        if outcome.status != "diverged" or at.rewinds >= max_rewinds:
            return outcome
        good = _latest(workdir, run)
        at = rewound(at, good, outcome.step)
        # The batches left out may end in another stage than the last batch before them.
        seen, left_out = (one.step + one.skipped_batches for one in (good, at))
        at = at._replace(state=_for_batch(run, at.state, seen, left_out))
        workdir.report(
            "rewind",
            f"number {at.rewinds}: from step {outcome.step} back to step {at.step}; the batches "
            f"of steps {at.step + 1} to {outcome.step} are left out ({at.skipped_batches} so far)",
        )
        workdir.rewind(at.step)


def _measure(workdir: Folder, run: Run, at: Position) -> Outcome:
    """Records as step 0 what the evaluators find for weights that are not trained."""
    has_average = run.train.average.every_tokens > 0
    first = run.stages[0]
    whole = _whole(first, run)
    entry = _evaluate(first.evaluators, 0, at.state, whole, True, workdir.clock, has_average)
    workdir.record(0, entry)
    workdir.save(0, at.state, at.notes(run), is_last=True)
    return Outcome("ok", 0)


def _whole(stage: Stage, run: Run) -> Callable[[model.Weights], model.Weights]:
    """From the weights that are trained to those that compute."""
    return lambda weights: stage.steps.whole(weights, run.frozen)


def _latest(workdir: Folder, run: Run) -> Position:
    """The newest usable checkpoint, or the beginning when none was ever made."""
    found = workdir.checkpoints.restore_latest(run.stages[0].steps.like)
    if found is None:
        return Position(run.start())
    base = found.notes.get("base", "")
    if base != run.base:
        raise config.ConfigError(
            f"checkpoint {found.step} holds adapters of the model {base or 'none'}, got "
            f"{run.base or 'none'} in train.init_from; put the model back that the run began with"
        )
    mesh = dict(run.mesh.shape)
    if found.notes["mesh"] != mesh:
        workdir.report(
            "resharded",
            f"checkpoint {found.step} was made on mesh {found.notes['mesh']} and continues on "
            f"{mesh}: sums are taken in another order, so from here on losses equal those of an "
            "unbroken run to rounding only",
        )
    return Position(found.state, found.step, found.notes["skipped_batches"], found.notes["rewinds"])


def rewound(before: Position, good: Position, trouble_step: int) -> Position:
    """`good`, the last good position, made to continue behind the data of `trouble_step`.

    `before` is where the steps that went wrong began.
    """
    # The step in trouble took batch trouble_step - 1 + before.skipped_batches; the next one is due.
    next_batch = trouble_step + before.skipped_batches
    return good._replace(skipped_batches=next_batch - good.step, rewinds=before.rewinds + 1)


def _for_batch(run: Run, current: state.TrainState, seen: int, batch: int) -> state.TrainState:
    """The state after batch `seen` as `batch` finds it: guards know no norms of another stage."""
    if not run.guard.enabled or not seen or run.stage_of(seen) == run.stage_of(batch):
        return current
    return current._replace(opt_state=optim.forget_norms(current.opt_state))


def _advance(workdir: Folder, run: Run, at: Position) -> Outcome:
    """Trains on from `at` to the last step, or to the first that is in trouble."""
    current, last, clock = at.state, run.train.num_steps, workdir.clock
    asked_to_stop = parallel.AnyProcess()
    # Processes differ in time to compile and to read, and a first collective does not wait long.
    parallel.everyones("ready")
    for number in range(at.step + 1, last + 1):
        due = number + at.skipped_batches
        index = run.stage_of(due)
        stage = run.stages[index]
        current = _for_batch(run, current, due - 1, due)
        with clock.spent("waiting_for_data"):
            batch = run.source.batch(due - 1, _whole(stage, run)(current.weights))
        batch = parallel.shard_batch(run.mesh, batch, stage.batch_size)
        with workdir.profiler.step(number) as finished:
            current, entry = stage.steps.train(current, batch, run.lr, run.frozen)
            finished(current.step)
        if len(run.stages) > 1:
            entry |= {"stage": index}
        if run.guard.enabled:
            entry |= {"skipped_batches": at.skipped_batches, "rewinds": at.rewinds}
        if _is_due(number, run.train.diagnostics_interval_steps, last):
            whole = _whole(stage, run)(current.weights)
            entry |= stage.steps.diagnose(whole, current.opt_state)
        else:
            entry.pop("relative_load", None)  # a number for each expert: too much for every step
        # Batches that are left out are made up for after the last batch of the last stage.
        is_stage_end = due == stage.last_batch and stage is not run.stages[-1]
        is_end = number == last or is_stage_end
        due_now = [one for one in stage.evaluators if is_end or number % one.every == 0]
        has_average = run.train.average.every_tokens > 0
        entry |= _evaluate(due_now, due, current, _whole(stage, run), is_end, clock, has_average)
        workdir.record(number, entry)
        is_stopping = asked_to_stop(workdir.is_asked_to_stop()) and number < last
        if is_stopping or _is_due(number, run.train.checkpoint_interval_steps, last):
            workdir.save(number, current, at.notes(run), is_last=number == last)
        if workdir.trouble_step is not None:
            return Outcome("diverged", workdir.trouble_step)
        if is_stopping:
            return Outcome("stopped", number)
    return Outcome("ok", last)


def _evaluate(
    evaluators: Sequence[Evaluator],
    batch: int,
    current: state.TrainState,
    whole: Callable[[model.Weights], model.Weights],
    is_end: bool,
    clock: Any,
    has_average: bool,
) -> dict[str, Any]:
    """What evaluators find after that many batches."""
    if not evaluators:
        return {}
    jax.block_until_ready(current.step)  # what is still being trained is not evaluation
    found: dict[str, Any] = {}
    with clock.spent("evaluating"):
        for one in evaluators:
            found |= one.of_batch(batch)
            found |= one.measure(whole(current.weights))
            if has_average:
                of_average = one.measure(whole(averaged(current)))
                found |= {_average_name(k): x for k, x in of_average.items() if not _is_array(x)}
    # Arrays are as long as their data; comparisons need those of the end.
    return {name: x for name, x in found.items() if is_end or not _is_array(x)}


def averaged(current: state.TrainState) -> model.Weights:
    """The average of the parameters, with the newest buffers, which no gradient moves."""
    params = current.weights.params
    return current.weights._replace(params=optim.averaged_params(current.opt_state, params))


def _average_name(name: str) -> str:
    """The name of a number that was measured on the average."""
    stem = name.removesuffix("_stderr")
    return f"{stem}_average{name[len(stem) :]}"


def _is_array(x: Any) -> bool:
    return getattr(x, "ndim", 0) > 0


def _is_due(number: int, interval: int, last: int) -> bool:
    return number % interval == 0 or number == last
