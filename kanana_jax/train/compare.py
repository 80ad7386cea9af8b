"""An experiment from end to end: one run, or every arm at every rate and seed, then the report.

With several processes all of them call `run`. Whatever one of them finds wrong, all of them raise.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from kanana_jax import checkpoint, config, data, parallel, report
from kanana_jax.checkpoint import owner
from kanana_jax.report import progress
from kanana_jax.workdir import events, lock, provenance, run_record, signals, storage
from kanana_jax.train import initial, loop, step
from kanana_jax.train.runs import Run, is_sweep, plan


class _Opened(NamedTuple):
    """The runs with their vocabularies, and what they read: equal text has one corpus."""

    exp: config.Experiment
    runs: list[Run]
    corpora: dict[config.DataConfig, data.Corpus]
    text: str  # identifies all of it before there are tokens

    @property
    def fingerprint(self) -> str:
        return ",".join(dict.fromkeys(one.fingerprint for one in self.corpora.values()))


def run(exp: config.Experiment, workdir: Path) -> None:
    """Runs `exp` in `workdir`, or continues it; finished runs are not repeated.

    Raises ConfigError, CheckpointError or DataError before anything is written in `workdir`, and
    StorageError when it takes no writing at the start or the end.
    """
    parallel.expect_devices()
    _expect_same(exp)
    workdir = parallel.together(lambda given=workdir: storage.expect_workdir(given))
    exp, runs = parallel.together(lambda: _check(exp, workdir))
    if any(one.exp.model.deterministic for one in runs):
        _keep_compiled(_cache_dir(exp.data, workdir) / "compiled")
    with signals.stop_request() as stop, _holding_if_several(stop):
        opened = parallel.first_then_others(lambda: _open(exp, runs, workdir))
        parallel.together(lambda: _check_tokens(opened, workdir))
        with storage.needed(workdir), lock.held(workdir):
            parallel.on_first(lambda: _begin(opened, workdir))
            finished = parallel.everyones([run_record.is_finished(one) for one in runs])[0]
            waiting = [one for one, done in zip(opened.runs, finished, strict=True) if not done]
            _train(waiting, opened.corpora, stop)
            if parallel.is_first():
                print(write_report(opened.exp, opened.runs, workdir))


def _train(
    waiting: list[Run],
    corpora: dict[config.DataConfig, data.Corpus],
    stop: signals.StopRequest,
) -> None:
    sweep = progress.Sweep(len(waiting), file=None if parallel.is_first() else progress.Silent())
    with _compile_ahead(waiting) as compiled:
        for index, one in enumerate(waiting, start=1):
            mesh, steps = compiled(one.exp)
            if any(parallel.everyones(stop.is_set)):
                raise signals.Stopped
            loop.run(
                one.exp,
                corpora[_of_text(one)],
                one.directory,
                mesh,
                steps,
                arm=one.arm,
                sweep=sweep,
                index=index,
                stop=stop,
            )


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


def _check(exp: config.Experiment, workdir: Path) -> tuple[config.Experiment, list[Run]]:
    """All that can be known without the data; the runs have the shape of train.init_from."""
    runs = [_with_shape(exp, one) for one in plan(exp, workdir)]
    exp = initial.with_shape(exp)
    storage.expect_folders([one.exp for one in runs])
    for one in runs:
        initial.check_tokenizer(one.exp)
        parallel.check(one.exp, parallel.make_mesh(one.exp.mesh).shape)
    changes = record.check(workdir, exp)
    lock.check(workdir)
    for one in runs:
        run_record.check(one, exp.name, is_changed=bool(changes))
    for where, may_take_over in _shared_checkpoints(exp, runs):
        owner.check(where, workdir, may_take_over=may_take_over, probe=parallel.is_first())
    return exp, runs


def _with_shape(exp: config.Experiment, one: Run) -> Run:
    shaped = initial.with_shape(one.exp)
    edits = {arm.name: arm.edits for arm in exp.arms}.get(one.arm, ())
    for path in config.edited_paths(edits):
        if config.setting(shaped, path) != config.setting(one.exp, path):
            raise config.ConfigError(
                f"arm {one.arm!r} sets {path} to {config.setting(one.exp, path)}, but the model of "
                f"train.init_from has {config.setting(shaped, path)}; leave one of the two out"
            )
    return one._replace(exp=shaped)


def _shared_checkpoints(exp: config.Experiment, runs: list[Run]) -> list[tuple[str, bool]]:
    """Where they lie, and whether they may be those of another working directory."""
    places = dict.fromkeys(one.exp.train.checkpoint_dir for one in runs)
    may_take_over = record.is_allowed("train.checkpoint_dir", exp.resume.allow)
    return [(checkpoint.shared_place(one, exp.name), may_take_over) for one in places if one]


def _cache_dir(cfg: config.DataConfig, workdir: Path) -> Path:
    return Path(cfg.cache_dir) if cfg.cache_dir else workdir / "cache"


def _open(exp: config.Experiment, runs: list[Run], workdir: Path) -> _Opened:
    """Reads the text of all runs and checks all that depends on it; then writes tokens."""
    texts = {
        cfg: data.read_text(cfg, _cache_dir(cfg, workdir), events.show)
        for cfg in dict.fromkeys(_of_text(one) for one in runs)
    }
    sizes = {cfg: text.tokenizer.vocab_size for cfg, text in texts.items()}
    runs = [one._replace(exp=record.with_vocab(one.exp, sizes[_of_text(one)])) for one in runs]
    if not exp.model.vocab_size:
        exp = record.with_vocab(exp, runs[0].exp.model.vocab_size)
    digest = ",".join(dict.fromkeys(text.digest for text in texts.values()))
    record.check_data(workdir, exp, digest, "text")
    for one in runs:
        if not run_record.is_finished(one):
            _expect_able(one)
    return _Opened(exp, runs, {cfg: text.open() for cfg, text in texts.items()}, digest)


def _of_text(one: Run) -> config.DataConfig:
    """What decides which text a run reads: not the seed, which orders it."""
    return dataclasses.replace(one.exp.data, seed=0)


def _expect_able(one: Run) -> None:
    """Raises ConfigError when an op of the train step cannot run on these devices."""
    try:
        step.build(one.exp, parallel.make_mesh(one.exp.mesh)).trace()
    except (NotImplementedError, ValueError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise config.ConfigError(f"{one.arm} cannot be trained here: {reason}") from error


def _check_tokens(opened: _Opened, workdir: Path) -> None:
    record.check_data(workdir, opened.exp, opened.fingerprint)
    _expect_same_text(opened.fingerprint)


def _expect_same_text(fingerprint: str) -> None:
    told = parallel.everyones(fingerprint)
    for process, other in enumerate(told):
        if other != told[0]:
            raise config.ConfigError(
                f"process {process} must read the text of process 0, fingerprint {told[0]}, got "
                f"{other}; make data.paths name the same files on all hosts"
            )


def _holding_if_several(stop: signals.StopRequest):
    """A process that leaves by itself would leave the others waiting for it."""
    return stop.holding() if jax.process_count() > 1 else contextlib.nullcontext()


def _begin(opened: _Opened, workdir: Path) -> None:
    """Records this process in `workdir`, now locked."""
    exp, runs = opened.exp, opened.runs
    changes = record.check(workdir, exp)
    for where, may_take_over in _shared_checkpoints(exp, runs):
        owner.claim(where, workdir, may_take_over=may_take_over)
    if changes:
        events.Events(workdir).report("settings_changed", "; ".join(changes))
    for one in runs:
        tokenizer = record.write_tokenizer(workdir, opened.corpora[_of_text(one)].tokenizer)
        run_record.begin(one, exp.name, tokenizer, is_changed=bool(changes))
    is_training = not all(map(run_record.is_finished, runs))
    num_skipped = sum(corpus.num_skipped for corpus in opened.corpora.values())
    record.write(
        workdir, exp, opened.fingerprint, opened.text, num_skipped, is_training=is_training
    )


@contextlib.contextmanager
def _compile_ahead(runs: list[Run]):
    """Compiles every arm while earlier ones train; yields exp -> mesh and steps, waiting for them.

    One arm at a time for every four cores: compilation keeps more than one busy.
    """

    def compile(exp: config.Experiment) -> tuple[Mesh, step.Steps]:
        mesh = parallel.make_mesh(exp.mesh)
        steps = step.build(exp, mesh)
        steps.compile()
        return mesh, steps

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
    if is_sweep(exp):
        text = report.stress.write_stress_report(results, about, path).text()
    else:
        text = report.single.write_run_report(results[0], about, path)
    return f"{text}\n\nReport: {path}"
