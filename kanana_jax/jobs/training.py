"""What every job that trains shares: checks, data, folders, compilation, the loop, the report.

A `Job` says what is a job's own; `run_all` does the rest, for one run or for those of a
comparison. With several processes all of them call it. Whatever one of them finds wrong, all raise.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from kanana_jax import checkpoint, config, parallel
from kanana_jax.checkpoint import owner
from kanana_jax.jobs import adapters, compiling, initial, pack
from kanana_jax.jobs import runs as runs_lib
from kanana_jax.jobs.job import Built, Corpus, Job, Start, Text, stored
from kanana_jax.jobs.runs import cache_dir, data_stages
from kanana_jax.objectives import NextToken
from kanana_jax.report import results, single
from kanana_jax.train import choices, optimizers, trained
from kanana_jax.workdir import (
    Run,
    StopRequest,
    clock,
    events,
    lock,
    provenance,
    run_record,
    signals,
    storage,
)

__all__ = [
    "Built",
    "Corpus",
    "Job",
    "Plan",
    "Start",
    "Text",
    "data_stages",
    "next_token",
    "of",
    "report",
    "run_all",
    "stored",
]


class Plan(NamedTuple):
    """The runs of a command, and what its folder says of them."""

    base: config.TrainingConfig
    axes: dict[str, Any]  # next to the settings in config.json
    runs: list[Run]
    write_report: Callable[[list[results.Run], Mapping[str, Any], Path], str]
    pack: int = 1  # runs that train at once, where their compiled steps are the same

    @property
    def record(self) -> dict[str, Any]:
        return json.loads(config.to_json(self.base)) | self.axes


def of(job: Job) -> Callable[[config.TrainingConfig, Path], None]:
    """run(cfg, workdir) of `job`: trains, or continues, and writes the report."""

    def write_report(runs, about, path):
        (only,) = runs
        return single.write_run_report(
            only, about, path, curves=job.pictures, headline=job.headline(only), columns=job.columns
        )

    def run(cfg: config.TrainingConfig, workdir: Path) -> None:
        of_seed = dataclasses.replace(cfg, train=initial.of_seed(cfg.train))
        only = Run({}, of_seed, workdir / "run")
        run_all(job, Plan(cfg, {}, [only], write_report), workdir)

    return run


def next_token(cfg: config.TrainingConfig) -> NextToken:
    """The objective of jobs that train on text."""
    return NextToken(z_weight=cfg.train.z_loss_weight)


def run_all(job: Job, plan: Plan, workdir: Path) -> None:
    """Trains every run of `plan` in `workdir`, or continues it; finished ones are not repeated.

    Raises UserError before anything is written in `workdir`, and StorageError when `workdir` cannot
    be written to at the start or the end.
    """
    parallel.expect_devices()
    _expect_same(plan)
    workdir = parallel.together(lambda given=workdir: storage.expect_workdir(given))
    plan = parallel.together(lambda: _check(job, plan, workdir))
    if any(one.config.execution.deterministic for one in plan.runs):
        compiling.keep(cache_dir(plan.base.data, workdir) / "compiled")
    with clock.counting(), signals.stop_request() as stop, _holding_if_several(stop):
        opened_data = parallel.first_then_others(lambda: _open(job, plan, workdir))
        parallel.together(lambda: _check_tokens(job, opened_data, workdir))
        plan = opened_data.plan
        with storage.needed(workdir), lock.held(workdir):
            parallel.on_first(lambda: _begin(job, opened_data, workdir))
            finished = parallel.everyones([run_record.is_finished(one) for one in plan.runs])[0]
            waiting = [one for one, done in zip(plan.runs, finished, strict=True) if not done]
            runs_lib.train(job, waiting, opened_data.corpora, workdir, stop, plan.pack)
            if parallel.is_first():
                print(report(plan, workdir))


def report(plan: Plan, workdir: Path) -> str:
    """Writes report.html and its figures; returns the table and the verdict as text."""
    path = workdir / "report.html"
    runs = [results.load(one.directory) for one in plan.runs]
    text = plan.write_report(runs, provenance.load(workdir), path)
    return f"{text}\n\nReport: {path}"


class _Opened(NamedTuple):
    """The runs with their vocabularies, and what they read: equal settings have one corpus."""

    plan: Plan
    corpora: dict[config.DataConfig, Any]
    text: str  # identifies all of it before there are tokens

    @property
    def fingerprint(self) -> str:
        return ",".join(dict.fromkeys(one.fingerprint for one in self.corpora.values()))


def _check(job: Job, plan: Plan, workdir: Path) -> Plan:
    """Checks all that can be known without the data; gives runs the shape of train.init_from."""
    plan = plan._replace(
        base=initial.with_shape(plan.base), runs=[_with_shape(one) for one in plan.runs]
    )
    allow = plan.base.resume.allow
    config.check_allowed(plan.base.resume, config.setting_names(type(plan.base)) | {*plan.axes})
    storage.expect_folders(
        (name, config.setting(one.config, name))
        for one in plan.runs
        for name in ("data.cache_dir", "train.checkpoint_dir")
    )
    for one in plan.runs:
        initial.check_tokenizer(one.config.train.init_from, one.config.data.tokenizer)
        initial.check_optimizer(one.config.train)
        adapters.check(
            one.config.lora, one.config.optimizer, one.config.model, one.config.train.init_from
        )
        if plan.pack > 1:
            cfg = one.config
            pack.check(
                len(cfg.in_stages()),
                cfg.train.num_steps,
                cfg.lora,
                job.objective(cfg),
                parallel.make_mesh(cfg.mesh).size,
            )
        for stage in one.config.in_stages():
            cfg = stage.config
            parallel.check(
                cfg.model,
                cfg.data.batch_size,
                cfg.data.seq_len,
                choices.num_micro(cfg.execution),
                parallel.make_mesh(cfg.mesh).shape,
            )
    changes = provenance.check(workdir, plan.record, allow)
    lock.check(workdir)
    for one in plan.runs:
        run_record.check(one, plan.base.name, is_changed=bool(changes))
    for where, may_take_over in _shared_checkpoints(plan):
        owner.check(where, workdir, may_take_over=may_take_over, probe=parallel.is_first())
    return plan


def _with_shape(one: Run) -> Run:
    return one._replace(config=initial.with_shape(one.config))


def _shared_checkpoints(plan: Plan) -> list[tuple[str, bool]]:
    """Where checkpoints lie, and whether they may be those of another working directory."""
    places = dict.fromkeys(one.config.train.checkpoint_dir for one in plan.runs)
    may_take_over = provenance.is_allowed("train.checkpoint_dir", plan.base.resume.allow)
    return [(checkpoint.shared_place(one, plan.base.name), may_take_over) for one in places if one]


def _open(job: Job, plan: Plan, workdir: Path) -> _Opened:
    """Reads the data of all runs and checks all that depends on it; then writes tokens."""
    texts = {
        cfg: job.read(cfg, cache_dir(cfg, workdir), events.show)
        for cfg in dict.fromkeys(runs_lib.data_of(one) for one in plan.runs)
    }

    def with_vocab(one: Run) -> Run:
        vocab_size = texts[runs_lib.data_of(one)].tokenizer.vocab_size
        return one._replace(config=one.config.with_vocab(vocab_size))

    runs = [with_vocab(one) for one in plan.runs]
    base = plan.base
    if not base.model.vocab_size:  # else that of an arm or axis may differ
        base = base.with_vocab(runs[0].config.model.vocab_size)
    digest = ",".join(dict.fromkeys(text.digest for text in texts.values()))
    provenance.check_data(workdir, base.resume.allow, digest, "text")
    for one in runs:
        if not run_record.is_finished(one):
            for step in dict.fromkeys(runs_lib.step_configs(job, one)):
                compiling.expect_able(one.label, step, one.config.mesh)
    plan = plan._replace(base=base, runs=runs)
    return _Opened(plan, {cfg: text.open() for cfg, text in texts.items()}, digest)


def _check_tokens(job: Job, found: _Opened, workdir: Path) -> None:
    for one in found.plan.runs:
        job.check(found.corpora[runs_lib.data_of(one)], one.config)
    provenance.check_data(workdir, found.plan.base.resume.allow, found.fingerprint)
    everyones = parallel.everyones(found.fingerprint)
    for process, other in enumerate(everyones):
        if other != everyones[0]:
            raise config.ConfigError(
                f"process {process} must read the text of process 0, fingerprint {everyones[0]}, "
                f"got {other}; make data.paths name the same files on all hosts"
            )


def _expect_same(plan: Plan) -> None:
    """Raises ConfigError unless all processes were started with the same settings."""
    mine = json.dumps(plan.record)
    first = parallel.everyones(mine if parallel.is_first() else None)[0]

    def compare() -> None:
        if mine != first:
            raise config.ConfigError(
                "every process must have the settings of process 0, got "
                f"{'; '.join(config.diff(json.loads(first), json.loads(mine)))}; start all with "
                "the same command"
            )

    parallel.together(compare)


def _holding_if_several(stop: StopRequest):
    """A process that leaves by itself would leave the others waiting for it."""
    return stop.holding() if jax.process_count() > 1 else contextlib.nullcontext()


def _chosen(job: Job, one: Run) -> dict[str, Any]:
    """What the settings came to, for the record of a run."""
    first, *others = runs_lib.step_configs(job, one)
    return {
        "execution": dataclasses.asdict(first.execution),
        "execution_of_later_stages": [dataclasses.asdict(step.execution) for step in others],
        "undecayed": optimizers.undecayed(first.optimizer, first.model, first.lora),
        "trained_parameters": trained.count(first.model, first.lora),
    }


def _begin(job: Job, found: _Opened, workdir: Path) -> None:
    """Records this process in `workdir`, now locked."""
    plan = found.plan
    changes = provenance.check(workdir, plan.record, plan.base.resume.allow)
    for where, may_take_over in _shared_checkpoints(plan):
        owner.claim(where, workdir, may_take_over=may_take_over)
    if changes:
        events.Events(workdir).report("settings_changed", "; ".join(changes))
    for one in plan.runs:
        tokenizer = provenance.write_tokenizer(
            workdir, found.corpora[runs_lib.data_of(one)].tokenizer
        )
        run_record.begin(
            one,
            plan.base.name,
            tokenizer,
            is_changed=bool(changes),
            chosen=_chosen(job, one),
        )
    for data_cfg, corpus in found.corpora.items():
        job.begin(corpus, [x.directory for x in plan.runs if runs_lib.data_of(x) == data_cfg])
    provenance.write(
        workdir,
        plan.record,
        found.fingerprint,
        found.text,
        sum(corpus.num_skipped for corpus in found.corpora.values()),
        is_training=not all(map(run_record.is_finished, plan.runs)),
    )
