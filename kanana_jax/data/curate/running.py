"""Runs a chain of stages in a folder, and goes on where an earlier run ended.

Documents are cut into shards once. A stage surveys each shard, decides on all of them together,
then rules on each; surveys and rulings of several shards run in several processes. What a stage
writes depends on its shard, the decision and the settings alone, so neither a kill nor the number
of processes changes a byte.
"""

import concurrent.futures
import contextlib
import itertools
import json
import multiprocessing
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from kanana_jax.config import ConfigError
from kanana_jax.data.curate import counts, locking, report, shards
from kanana_jax.data.curate.document import Document, Dropped
from kanana_jax.data.curate.shards import Folder
from kanana_jax.data.curate.stage import Stage

_LOCKS = (".lock", ".workers")  # all that a run leaves that was killed at once
Tell = Callable[[str], None]


class Plan(NamedTuple):
    inputs: Any  # JSON that differs where the documents do
    documents: Callable[[], Iterable[Document]]
    stages: Sequence[Stage]
    shard_bytes: int

    def to_json(self) -> dict[str, Any]:
        told = [{"name": one.name, "settings": dict(one.settings)} for one in self.stages]
        return {"inputs": self.inputs, "shard_bytes": self.shard_bytes, "stages": told}


def expect_same(plan: Plan, out: pathlib.Path) -> None:
    """Raises ConfigError where another plan has begun in the folder, or other files lie there."""
    path = out / "plan.json"
    if not path.exists():
        if out.is_dir() and any(one.name not in _LOCKS for one in out.iterdir()):
            raise ConfigError(
                f"--to={out} must be a new or empty folder, or one of an earlier run; name another"
            )
        return
    before, now = shards.read_json(path), json.loads(json.dumps(plan.to_json()))
    different = [name for name in now if before.get(name) != now[name]]
    if different:
        raise ConfigError(
            f"--to={out} has a run with other {' and '.join(different)} (plan.json there); give "
            "the same command to go on, or another folder"
        )


def run(plan: Plan, out: pathlib.Path, *, num_workers: int, tell: Tell) -> dict[str, Any]:
    """Runs what is left of the plan, and returns the report, which also lies in the folder.

    ConfigError where the folder does not belong to this plan, or another run has it.
    """
    expect_same(plan, out)
    out.mkdir(parents=True, exist_ok=True)
    with locking.held(out):
        return _run(plan, out, num_workers, tell)


def _run(plan: Plan, out: pathlib.Path, num_workers: int, tell: Tell) -> dict[str, Any]:
    if not (out / "plan.json").exists():
        shards.write_json(out / "plan.json", plan.to_json())
    folders = folders_of(plan.stages, out)
    if not folders[0].done.exists():
        _read(plan, folders[0], tell)
    num_shards = shards.read_json(folders[0].done)["shards"]
    with _mapped(min(num_workers, num_shards), out) as mapped:
        for stage, (before, folder) in zip(plan.stages, itertools.pairwise(folders), strict=True):
            if not folder.done.exists():
                by = map if stage.is_alone else mapped
                _Run(stage, before, folder, range(num_shards), by).run()
                tell(report.line(folder.name, shards.read_json(folder.done)))
            before.clear_documents()
            folder.clear_surveys()
    return published(folders, out, num_shards, plan.to_json())


def folders_of(stages: Sequence[Stage], out: pathlib.Path) -> list[Folder]:
    """One folder for what is read, and one for each stage."""
    names = ["read", *(one.name for one in stages)]
    return [Folder(out, number, name) for number, name in enumerate(names)]


def published(
    folders: Sequence[Folder], out: pathlib.Path, num_shards: int, told: Mapping[str, Any]
) -> dict[str, Any]:
    """Moves what the last stage keeps, and writes the report of finished stages."""
    _publish(folders[-1], out, num_shards)
    done = [shards.read_json(folder.done) for folder in folders]
    found = report.of([folder.name for folder in folders], done, told)
    report.write(found, out)
    return found


def _read(plan: Plan, folder: Folder, tell: Tell) -> None:
    found = []
    for shard, documents in enumerate(shards.cut(plan.documents(), plan.shard_bytes)):
        shards.write_lines(folder.kept(shard), (one.line() for one in documents))
        found.append(counts.of(documents, documents))
    shards.write_json(folder.done, counts.total(found) | {"shards": len(found), "told": {}})
    tell(report.line(folder.name, shards.read_json(folder.done)))


class _Run(NamedTuple):
    """A stage on all shards."""

    stage: Stage
    before: Folder
    folder: Folder
    shards: range
    mapped: Callable[..., Iterable[Any]]  # map, in one process or in several

    def run(self) -> None:
        decided = self._decided()
        left = [one for one in self.shards if not self.folder.counts(one).exists()]
        jobs = [(self.stage, self.before, self.folder, one, decided["rulings"][one])
                for one in left]  # fmt: skip
        for _ in self.mapped(rule, jobs):
            pass
        finish(self.folder, len(self.shards), decided["told"])

    def _decided(self) -> Mapping[str, Any]:
        if self.stage.decide is None:
            return {"rulings": [None] * len(self.shards), "told": {}}
        if not self.folder.decision.exists():
            left = [one for one in self.shards if not self.folder.survey(one).exists()]
            jobs = [(self.stage, self.before, self.folder, one) for one in left]
            for _ in self.mapped(survey, jobs):
                pass
            decide(self.stage, self.folder, len(self.shards))
        return shards.read_json(self.folder.decision)


@contextlib.contextmanager
def _mapped(num_processes: int, out: pathlib.Path) -> Iterator[Callable[..., Iterable[Any]]]:
    """map, in this process or in several."""
    if num_processes <= 1:
        yield map
        return
    # Forked processes would share the threads of libraries that are loaded.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        num_processes, context, initializer=locking.join, initargs=(out,)
    ) as pool:
        yield pool.map


def survey(job: tuple[Stage, Folder, Folder, int]) -> None:
    """Surveys a shard. A job: the stage, the folder of the stage before, its own, and the shard."""
    stage, before, folder, shard = job
    assert stage.survey is not None
    shards.write_survey(
        folder.survey(shard), stage.survey(shards.read_documents(before.kept(shard)))
    )


def decide(stage: Stage, folder: Folder, num_shards: int) -> None:
    """Decides on the surveys of all shards."""
    assert stage.decide is not None
    decision = stage.decide([shards.read_survey(folder.survey(one)) for one in range(num_shards)])
    told = {"rulings": list(decision.rulings), "told": dict(decision.told)}
    shards.write_json(folder.decision, told)


def finish(folder: Folder, num_shards: int, told: Mapping[str, Any]) -> None:
    """Writes the counts of a stage whose shards are ruled on."""
    parts = (shards.read_json(folder.counts(one)) for one in range(num_shards))
    shards.write_json(folder.done, counts.total(parts) | {"told": told})


def rule(job: tuple[Stage, Folder, Folder, int, Any]) -> None:
    """Rules on a shard. A job is as for `survey`, with the ruling; counts are written last."""
    stage, before, folder, shard, ruling = job
    documents = shards.read_documents(before.kept(shard))
    survey = shards.read_survey(folder.survey(shard)) if stage.survey else {}
    verdicts = stage.apply(documents, survey, ruling)
    kept = (one.line() for one in verdicts if not isinstance(one, Dropped))
    shards.write_lines(folder.kept(shard), kept)
    dropped = (
        one.line(reason=why.reason, detail=why.detail)
        for one, why in zip(documents, verdicts, strict=True)
        if isinstance(why, Dropped)
    )
    shards.write_lines(folder.dropped(shard), dropped)
    shards.write_json(folder.counts(shard), counts.of(documents, verdicts))


def _publish(last: Folder, out: pathlib.Path, num_shards: int) -> None:
    """Moves the last stage's shards, without the empty ones."""
    target = out / "documents"
    target.mkdir(exist_ok=True)
    for shard in range(num_shards):
        path = last.kept(shard)
        if path.exists() and path.stat().st_size:
            os.replace(path, target / path.name)
        else:
            path.unlink(missing_ok=True)
