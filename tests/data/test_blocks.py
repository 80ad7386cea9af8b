"""Stages run by the local executor of datatrove, beside the same stages run by ourselves."""

import curated
import pytest

from kanana_jax import config
from kanana_jax.data.curate import duplicates, heuristics, language, normalise, running, shards

pytest.importorskip("datatrove", reason="datatrove is not installed (extra cluster)")
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor

from kanana_jax.data.curate import blocks

STAGES = [
    normalise.stage(), language.stage(["ko"], 0.5), heuristics.stage(0.05), duplicates.exact(),
    duplicates.near(0.8),
]  # fmt: skip
NUM_SHARDS = 3
KOREAN = curated.prose("ko", 40)
TEXTS = [*KOREAN[:30], "1 2 3", *KOREAN[10:20], "\u00e9" * 300, KOREAN[30] + " ", *KOREAN[30:]]


class _Read:
    """A reader that gives each of the three tasks a third of the texts."""

    def __call__(self, data, rank, world_size):
        size = -(-len(TEXTS) // world_size)
        for number, text in enumerate(TEXTS[rank * size :][:size]):
            yield Document(text=text, id=f"{rank}/{number}", metadata={"source": "test"})


def _run(out, logs, last=None, stages=STAGES):
    """Runs all steps, or those up to `last`."""
    executor = LocalPipelineExecutor(
        [_Read(), blocks.Take(out)], tasks=NUM_SHARDS, workers=1, logging_dir=str(logs / "read")
    )
    steps = blocks.steps(stages, out, num_shards=NUM_SHARDS)
    for number, step in enumerate(steps[:last]):
        executor = LocalPipelineExecutor(
            [step.block],
            tasks=step.tasks,
            workers=1,
            depends=executor,
            logging_dir=str(logs / f"{number}"),
        )
    executor.run()
    return executor


def _lines(folder):
    """The lines of each folder in the order of its shards, however they were cut."""
    found = {}
    for path in sorted(folder.rglob("*.jsonl")):
        name = str(path.parent.relative_to(folder))
        found[name] = found.get(name, "") + path.read_text(encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def by_us(tmp_path_factory):
    out = tmp_path_factory.mktemp("us") / "out"
    documents = curated.documents(TEXTS)
    plan = running.Plan("texts", lambda: documents, STAGES, 2500)
    running.run(plan, out, num_workers=1, tell=lambda line: None)
    return out


def test_a_cluster_writes_what_one_machine_does(by_us, tmp_path):
    _run(tmp_path / "out", tmp_path / "logs")
    assert _lines(tmp_path / "out") == _lines(by_us)
    ours, theirs = (shards.read_json(one / "report.json") for one in (by_us, tmp_path / "out"))
    assert theirs["stages"] == ours["stages"]
    assert len(list((tmp_path / "out" / "documents").iterdir())) == NUM_SHARDS


def test_tasks_that_are_repeated_change_nothing(by_us, tmp_path):
    """As after a crash that lost the executor's own record."""
    _run(tmp_path / "out", tmp_path / "first", last=6)
    _run(tmp_path / "out", tmp_path / "second")
    assert _lines(tmp_path / "out") == _lines(by_us)


def test_other_stages_in_the_same_folder_are_refused_before_any_task(tmp_path):
    blocks.steps(STAGES, tmp_path / "out", num_shards=NUM_SHARDS)
    with pytest.raises(config.ConfigError, match="a run with other stages"):
        blocks.steps(STAGES[:2], tmp_path / "out", num_shards=NUM_SHARDS)
    with pytest.raises(config.ConfigError, match="a run with other inputs"):
        blocks.steps(STAGES, tmp_path / "out", num_shards=4)
