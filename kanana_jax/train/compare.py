"""An experiment from end to end: one run, or every arm at every rate and seed, then the report.

With several processes all of them call `run`. Whatever one of them finds wrong, all of them raise.
"""

import concurrent.futures
import contextlib
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from kanana_jax import checkpoint, config, data, parallel, report
from kanana_jax.checkpoint import owner
from kanana_jax.report import progress
from kanana_jax.train import events, initial, lock, loop, record, signals, step, storage


class Run(NamedTuple):
    """One training run of an experiment."""

    arm: str
    exp: config.Experiment
    directory: Path


def run(exp: config.Experiment, workdir: Path) -> None:
    """Runs `exp` in `workdir`, or continues it; finished runs are not repeated.

    Raises ConfigError, CheckpointError or DataError before anything is written in `workdir`, and
    StorageError when it takes no writing at the start or the end.
    """
    _expect_same(exp)
    exp, mesh = parallel.together(lambda: _check(exp, workdir))
    cache_dir = Path(exp.data.cache_dir) if exp.data.cache_dir else workdir / "cache"
    if exp.model.deterministic:
        _keep_compiled(cache_dir / "compiled")
    with signals.stop_request() as stop, _holding_if_several(stop):
        corpus = parallel.first_then_others(
            lambda: data.open_corpus(exp.data, cache_dir, events.show)
        )
        _expect_same_text(corpus.fingerprint)
        exp = parallel.together(lambda: _with_corpus(exp, workdir, corpus))
        with storage.needed(workdir), lock.held(workdir):
            runs = plan(exp, workdir)
            parallel.on_first(lambda: _begin(exp, workdir, runs, corpus))
            finished = parallel.everyones([_is_finished(one) for one in runs])[0]
            waiting = [one for one, done in zip(runs, finished, strict=True) if not done]
            sweep = progress.Sweep(
                len(waiting), file=None if parallel.is_first() else progress.Silent()
            )
            with _compile_ahead(waiting, mesh) as compiled:
                for index, one in enumerate(waiting, start=1):
                    steps = compiled(one.exp)
                    if any(parallel.everyones(stop.is_set)):
                        raise signals.Stopped
                    loop.run(
                        one.exp,
                        corpus,
                        one.directory,
                        mesh,
                        steps,
                        arm=one.arm,
                        sweep=sweep,
                        index=index,
                        stop=stop,
                    )
            if parallel.is_first():
                print(write_report(exp, runs, workdir))


def _expect_same(exp: config.Experiment) -> None:
    """Raises ConfigError unless all processes were started with the same settings."""
    mine = config.to_json(exp)
    first = parallel.everyones(mine if parallel.is_first() else None)[0]

    def compare() -> None:
        if mine != first:
            raise config.ConfigError(
                "every process must have the settings of process 0, got "
                f"{'; '.join(config.diff(json.loads(first), json.loads(mine)))}; start all with "
                "the same command"
            )

    parallel.together(compare)


def _expect_same_text(fingerprint: str) -> None:
    told = parallel.everyones(fingerprint)
    for process, other in enumerate(told):
        if other != told[0]:
            raise config.ConfigError(
                f"process {process} must read the text of process 0, fingerprint {told[0]}, got "
                f"{other}; make data.paths name the same files on all hosts"
            )


def _check(exp: config.Experiment, workdir: Path) -> tuple[config.Experiment, Mesh]:
    """All that can be known without the data."""
    plan(exp, workdir)
    exp = initial.with_shape(exp)
    initial.check_tokenizer(exp)
    mesh = parallel.make_mesh(exp.mesh)
    parallel.check(exp, mesh.shape)
    record.check(workdir, exp)
    if exp.train.checkpoint_dir:
        where, may_take_over = _shared_checkpoints(exp)
        owner.check(where, workdir, may_take_over=may_take_over, probe=parallel.is_first())
    return exp, mesh


def _shared_checkpoints(exp: config.Experiment) -> tuple[str, bool]:
    """Where they lie, and whether they may be those of another working directory."""
    where = checkpoint.shared_place(exp.train.checkpoint_dir, exp.name)
    return where, record.is_allowed("train.checkpoint_dir", exp.resume.allow)


def _with_corpus(exp: config.Experiment, workdir: Path, corpus: data.Corpus) -> config.Experiment:
    exp = record.with_vocab(exp, corpus.vocab_size)
    record.check_data(workdir, exp, corpus.fingerprint)
    return exp


def _holding_if_several(stop: signals.StopRequest):
    """A process that leaves by itself would leave the others waiting for it."""
    return stop.holding() if jax.process_count() > 1 else contextlib.nullcontext()


def _begin(exp: config.Experiment, workdir: Path, runs: list[Run], corpus: data.Corpus) -> None:
    """Records this process in `workdir`, now locked."""
    changes = record.check(workdir, exp)
    if exp.train.checkpoint_dir:
        where, may_take_over = _shared_checkpoints(exp)
        owner.claim(where, workdir, may_take_over=may_take_over)
    if changes:
        events.Events(workdir).report("settings_changed", "; ".join(changes))
        for one in runs:  # finished by the old settings
            (one.directory / report.results.RESULT_NAME).unlink(missing_ok=True)
    record.write(workdir, exp, corpus.fingerprint, corpus.num_skipped)


@contextlib.contextmanager
def _compile_ahead(runs: list[Run], mesh: Mesh):
    """Compiles every arm while earlier ones train; yields exp -> its steps, waiting for them.

    One arm at a time for every four cores: compilation keeps more than one busy.
    """

    def compile(exp: config.Experiment) -> step.Steps:
        steps = step.build(exp, mesh)
        steps.compile()
        return steps

    pool = concurrent.futures.ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 4))
    try:
        parts = dict.fromkeys(step.compiled_part(one.exp) for one in runs)
        waiting = {part: pool.submit(compile, part) for part in parts}
        yield lambda exp: waiting[step.compiled_part(exp)].result()
    finally:
        pool.shutdown(cancel_futures=True)


def _keep_compiled(folder: Path) -> None:
    """Later processes use what this one compiles: autotuned anew, they could round otherwise."""
    folder = Path(jax.config.jax_compilation_cache_dir or folder)  # pyright: ignore
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()  # of a process that has compiled before


def write_report(exp: config.Experiment, runs: list[Run], workdir: Path) -> str:
    """Writes report.html and its figures; returns the table and the verdict as text."""
    results = [report.results.load(one.directory) for one in runs]
    about = record.load(workdir)
    path = workdir / "report.html"
    if exp.arms:
        text = report.stress.write_stress_report(results, about, path).text()
    else:
        text = report.single.write_run_report(results[0], about, path)
    return f"{text}\n\nReport: {path}"


def plan(exp: config.Experiment, workdir: Path) -> list[Run]:
    """The runs of an experiment, rate by rate so that a first picture of all arms comes early."""
    if not exp.arms:
        return [Run(exp.name, exp, workdir / "run")]
    runs = []
    shared = exp.lrs or (exp.optimizer.lr,)
    rates = dict.fromkeys([*shared, *(lr for arm in exp.arms for lr in arm.lrs)])
    for lr in rates:
        arms = [arm for arm in exp.arms if lr in shared or lr in arm.lrs]
        for seed in range(exp.train.seed, exp.train.seed + exp.seeds):
            for arm in arms:
                edited = config.edit(config.single_run(exp, lr=lr, seed=seed), arm.edits)
                name = f"{_slug(arm.name)}-lr{lr:g}-seed{seed}"
                runs.append(Run(arm.name, edited, workdir / "runs" / name))
    return runs


def _slug(name: str) -> str:
    """A name for a folder: "Muon, Polar Express" becomes muon-polar-express."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _is_finished(one: Run) -> bool:
    return (one.directory / report.results.RESULT_NAME).exists()
