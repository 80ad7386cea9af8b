"""Trains runs one after the other, their steps compiled ahead."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from kanana_jax import config, data, model, parallel
from kanana_jax.jobs import adapters, compiling, initial, outcome, pack
from kanana_jax.jobs.job import Built, Job, Start
from kanana_jax.plan import chips, flops
from kanana_jax.report import progress
from kanana_jax.train import fit, state, step_functions, trained
from kanana_jax.train.step_config import StepConfig
from kanana_jax.workdir import Run, Stopped, StopRequest, Work, Workdir, opened


def data_of(one: Run) -> config.DataConfig:
    """What decides which data a run reads: not the seed, which orders them."""
    return one.config.data.with_seed(0)


def cache_dir(cfg: config.DataConfig, workdir: Path) -> Path:
    """Where tokens, and what is found of them, are kept."""
    return Path(cfg.cache_dir) if cfg.cache_dir else workdir / "cache"


def step_configs(job: Job, one: Run) -> list[StepConfig]:
    """What the compiled step of each stage depends on."""
    rates = one.config.rate_segments()
    return [
        StepConfig.of(
            stage.config,
            job.objective(stage.config),
            rates=rates,
            teacher=job.teacher(stage.config),
        )
        for stage in one.config.in_stages()
    ]


def data_stages(
    cfg: config.TrainingConfig, rows_of: Callable[[int], list[int] | None] = lambda size: None
) -> list[data.Stage]:
    """The stages of a run as its source takes them.

    `rows_of` takes the size of a batch and gives the rows that this process loads; None: all.
    """
    return [
        data.Stage(stage.num_steps, stage.config.data, rows_of(stage.config.data.batch_size))
        for stage in cfg.in_stages()
    ]


def train(
    job: Job,
    waiting: list[Run],
    corpora: dict[config.DataConfig, Any],
    workdir: Path,
    stop: StopRequest,
    pack_size: int = 1,
) -> None:
    """Trains runs in turn; with a `pack_size`, as many that share a compiled step at once."""
    sweep = progress.Sweep(len(waiting), file=None if parallel.is_first() else progress.Silent())
    meshes = {one.config.mesh: parallel.make_mesh(one.config.mesh) for one in waiting}
    needed = [step_configs(job, one) for one in waiting]
    keys = [
        (step, meshes[one.config.mesh])
        for one, steps in zip(waiting, needed, strict=True)
        if one.config.train.num_steps and pack_size == 1  # a pack compiles its own
        for step in steps
    ]
    with compiling.ahead(keys) as compiled:
        index = 0
        for members in _packs(waiting, needed, pack_size):
            mesh = meshes[waiting[members[0]].config.mesh]
            ready = [compiled(step, mesh) for step in needed[members[0]]]
            if any(parallel.everyones(stop.is_set)):
                raise Stopped
            compile_s = sum(seconds for _, seconds in ready)
            built = [Built(mesh, made, made.cfg.objective) for made, _ in ready]
            work = [_work(made.cfg) for made, _ in ready]
            with contextlib.ExitStack() as folders:
                trained = []
                for at in members:
                    index, one = index + 1, waiting[at]
                    bar = _bar(functools.partial(sweep.run, index), one, work, not trained)
                    folder = opened(one, stop, bar, work, compile_s=compile_s)
                    kept = cache_dir(one.config.data, workdir)
                    corpus = corpora[data_of(one)]
                    trained.append(_Member(one, corpus, folders.enter_context(folder), kept))
                ended = _train_together(job, trained, built, pack_size)
            for member, end in zip(trained, ended, strict=True):
                one, corpus, folder, _ = member
                write = functools.partial(outcome.write, folder, end, one, corpus.fingerprint)
                parallel.on_first(write)


class _Member(NamedTuple):
    """A run that is about to train, with what it is given."""

    run: Run
    corpus: Any
    folder: Workdir
    kept: Path


def _packs(
    waiting: Sequence[Run], needed: Sequence[list[StepConfig]], size: int
) -> list[list[int]]:
    """Places in `waiting` of the runs that train at once, in the order of the first of each."""
    alike: dict[Any, list[int]] = {}
    for at, (one, steps) in enumerate(zip(waiting, needed, strict=True)):
        # Runs on their own keep their order.
        key = at if size == 1 else (*steps, one.config.mesh)
        alike.setdefault(key, []).append(at)
    return [list(pack) for group in alike.values() for pack in itertools.batched(group, size)]


def _bar(
    begun: Callable[..., progress.Progress], one: Run, work: Sequence[Work], is_shown: bool
) -> progress.Progress:
    """The progress bar of a run; of the runs of a pack, the first one's is shown."""
    stages = [
        progress.Stage(stage.name, stage.num_steps, done.tokens)
        for stage, done in zip(one.config.in_stages(), work, strict=True)
    ]
    name, num_steps = one.label or one.config.name, one.config.train.num_steps
    file = None if is_shown else progress.Silent()
    return begun(name, num_steps=num_steps, stages=stages, file=file)


def _train_together(
    job: Job, members: Sequence[_Member], built: Sequence[Built], pack_size: int
) -> list[fit.Outcome]:
    if pack_size == 1:
        return [_train_one(job, member, built) for member in members]

    def train_one(member: _Member, steps: step_functions.Steps) -> fit.Outcome:
        return _train_one(job, member, [built[0]._replace(steps=steps)])

    runs = [functools.partial(train_one, member) for member in members]
    return pack.train(built[0].steps, built[0].mesh, pack_size, runs)


def _train_one(job: Job, member: _Member, of_stages: Sequence[Built]) -> fit.Outcome:
    """Raises Stopped, with all saved, where a signal asked for it."""
    one, corpus, folder, kept = member
    cfg, first = one.config, of_stages[0]

    def restored() -> model.Weights:
        if not cfg.train.init_from:
            return first.steps.weights(cfg.train.seed)
        return initial.restore(cfg.train.init_from, first.steps.like_whole)

    base = adapters.base(
        cfg.lora, first.steps.cfg.model, cfg.train.init_from, restored, folder.report
    )

    def first_weights() -> model.Weights:
        return base.weights[trained.NAME] if base.weights else restored()

    def start() -> state.TrainState:
        fresh = first.steps.start(first_weights(), cfg.train.seed)
        if not cfg.train.optimizer_from:
            return fresh
        opt_state = initial.optimizer_state(Path(cfg.train.optimizer_from), first.steps.like)
        return fresh._replace(opt_state=opt_state)

    known = Start(first_weights, kept, folder.report)
    corpus = job.prepared(corpus, cfg.data, first, known)
    own = job.own(cfg)
    frozen = {**base.weights, **job.frozen(first._replace(own=own), known)}

    def completed(built: Built) -> Built:
        return built._replace(frozen=frozen, own=own, directory=folder.directory, start=known)

    built_of: dict[config.ModelConfig, Built] = {}
    for stage, built in zip(cfg.in_stages(), of_stages, strict=True):
        built_of.setdefault(stage.config.model, completed(built))
    # Stages with one rope measure alike, on the same held-out text.
    evaluators = {
        shape: job.evaluators(corpus, cfg.data, cfg.train, built)
        for shape, built in built_of.items()
    }
    ends = itertools.accumulate(stage.num_steps for stage in cfg.in_stages())
    stages = [
        fit.Stage(
            last_batch=end,
            batch_size=stage.config.data.batch_size,
            steps=built.steps,
            evaluators=evaluators[stage.config.model],
        )
        for stage, end, built in zip(cfg.in_stages(), ends, of_stages, strict=True)
    ]
    ended = fit.fit(
        folder,
        fit.Run(
            stages=stages,
            mesh=first.mesh,
            source=job.source(corpus, cfg.data, data_stages(cfg, first.rows), completed(first)),
            start=start,
            train=cfg.train,
            guard=cfg.guard,
            lr=cfg.optimizer.lr,
            frozen=frozen,
            base=base.fingerprint,
        ),
    )
    if ended.status == "stopped":
        folder.stopped(ended.step)
    return ended


def _work(step: StepConfig) -> Work:
    """What a step does, and what the devices could do in a second."""
    chip = chips.of_device(jax.devices()[0])
    peak = chip.bf16_flops * jax.device_count() if chip else 0.0
    model_flops = flops.of_model(step.model, step.batch_size, step.seq_len)
    return Work(step.batch_size * step.seq_len, model_flops, peak)
