"""Stages as blocks of datatrove, whose executors spread them over a cluster (Slurm, Ray).

    executor = LocalPipelineExecutor([JsonlReader(...), blocks.Take(out)], tasks=64)
    for step in blocks.steps(stages, out, num_shards=64):
        executor = LocalPipelineExecutor([step.block], tasks=step.tasks, depends=executor)
    executor.run()

Each task has one shard, so all steps have as many tasks as the reader, except those that see all
shards. `out` is a folder that all machines share, and gets what a run on one machine writes. A task
that is repeated writes the same bytes; nothing keeps two executors out of the same folder.
"""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from kanana_jax import extras
from kanana_jax.data.curate import counts, running, shards
from kanana_jax.data.curate.document import of_text
from kanana_jax.data.curate.shards import Folder
from kanana_jax.data.curate.stage import Stage

with extras.needed("cluster"):
    from datatrove.pipeline.base import PipelineStep  # pyright: ignore[reportMissingImports]


class Step(NamedTuple):
    """A block, and the number of tasks that it must be given."""

    block: PipelineStep
    tasks: int


def steps(stages: Sequence[Stage], out: pathlib.Path, *, num_shards: int) -> list[Step]:
    """The steps after the block `Take` of as many tasks, in order; each needs all tasks before it.

    ConfigError where another run has the folder.
    """
    plan = running.Plan({"datatrove": num_shards}, tuple, stages, 0)
    running.expect_same(plan, out)
    shards.write_json(out / "plan.json", plan.to_json())
    folders = running.folders_of(stages, out)
    found: list[Step] = []
    for stage, before, folder in zip(stages, folders, folders[1:], strict=False):
        if stage.survey is not None:
            found.append(Step(_Survey(stage, before, folder), num_shards))
        if stage.decide is not None:
            found.append(Step(_Decide(stage, folder, num_shards), 1))
        found.append(Step(_Rule(stage, before, folder), num_shards))
    return [*found, Step(_Publish(folders, out, num_shards, plan.to_json()), 1)]


class _Block(PipelineStep):
    type = "CURATION"

    def __init__(self, name: str):
        self.name = name
        super().__init__()


class Take(_Block):
    """Takes the documents of the reader before it; those of one task are a shard."""

    def __init__(self, out: pathlib.Path):
        super().__init__("take")
        self._folder = Folder(out, 0, "read")

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        # The id of another tool may name a place; a document's id here comes from its text.
        found = [of_text(one.text, _source(one.metadata)) for one in data]
        shards.write_lines(self._folder.kept(rank), (one.line() for one in found))
        shards.write_json(self._folder.counts(rank), counts.of(found, found))
        self.stat_update("documents", value=len(found))
        yield from ()


def _source(metadata: Any) -> str:
    return str(metadata.get("file_path") or metadata.get("source") or "datatrove")


class _Survey(_Block):
    def __init__(self, stage: Stage, before: Folder, folder: Folder):
        super().__init__(f"survey of {folder.name}")
        self._job = stage, before, folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        running.survey((*self._job, rank))
        yield from ()


class _Decide(_Block):
    def __init__(self, stage: Stage, folder: Folder, num_shards: int):
        super().__init__(f"decision of {folder.name}")
        self._job = stage, folder, num_shards

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        running.decide(*self._job)
        yield from ()


class _Rule(_Block):
    def __init__(self, stage: Stage, before: Folder, folder: Folder):
        super().__init__(f"ruling of {folder.name}")
        self._stage, self._before, self._folder = stage, before, folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        ruling = None
        if self._stage.decide is not None:
            ruling = shards.read_json(self._folder.decision)["rulings"][rank]
        running.rule((self._stage, self._before, self._folder, rank, ruling))
        done = shards.read_json(self._folder.counts(rank))
        self.stat_update("kept", value=_number(done["kept"]))
        for reason, by_language in done["dropped"].items():
            self.stat_update(f"dropped_{reason}", value=_number(by_language))
        yield from ()


class _Publish(_Block):
    """The counts of all stages, their report, and the documents that are kept."""

    def __init__(self, folders: Sequence[Folder], out: pathlib.Path, num_shards: int, told: Any):
        super().__init__("report")
        self._folders, self._out, self._num_shards, self._told = folders, out, num_shards, told

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        for folder in self._folders:
            is_decided = folder.decision.exists()
            told = shards.read_json(folder.decision)["told"] if is_decided else {}
            running.finish(folder, self._num_shards, told)
        running.published(self._folders, self._out, self._num_shards, self._told)
        for folder in self._folders:
            folder.clear_documents()
            folder.clear_surveys()
        yield from ()


def _number(by_language: Any) -> int:
    return sum(number for number, _ in by_language.values())
