"""Runs through the command whose checkpoints lie elsewhere: in a folder, or in an object store."""

import json
import sys
from pathlib import Path

import numpy as np
import object_store
import pytest
import tiny_jobs
from absl.testing import flagsaver

from kanana_jax import convert, main
from kanana_jax.checkpoint import objects, places
from kanana_jax.report import metrics
from kanana_jax.weights import native

pytestmark = pytest.mark.slow
EMPTY = '""'
EXPERIMENT = Path(__file__).parents[1] / "faults" / "tiny_run.py"
# Steps are recorded eight steps late: a run killed at step 23 has recorded 14 and saved 12.
STEPS = ("train.num_steps=24", "train.checkpoint_interval_steps=12")


@pytest.fixture
def server(monkeypatch):
    with object_store.served() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(
            objects, "_RETRIES", {"max_retries": 3, "initial_delay": "10ms", "max_delay": "50ms"}
        )
        yield server


@pytest.fixture
def start(text_file, tmp_path, monkeypatch):
    """start(name, checkpoint_dir, *edits) runs the command in the working directory `name`."""
    monkeypatch.setenv("TEXT", str(text_file))
    monkeypatch.setattr(sys, "path", [*sys.path])  # the experiment's folder is put in front

    def fn(name, checkpoint_dir, *edits):
        places = [
            f"train.checkpoint_dir={checkpoint_dir or EMPTY}",
            f"data.cache_dir={tmp_path}/cache",
        ]
        flags = {
            "experiment": str(EXPERIMENT),
            "workdir": str(tmp_path / name),
            "set": ["mesh.data=-1", "mesh.fsdp=1", *places, *edits],
        }
        with flagsaver.flagsaver(**flags):
            main.flags.FLAGS.mark_as_parsed()
            main.main(["main"])

    return fn


def _records(run):
    lines = map(json.loads, (run / metrics.METRICS_NAME).read_text().splitlines())
    return [tiny_jobs.untimed(one) for one in lines]


def _arrays(where, step):
    place = places.open_place(where)
    content = json.loads(place.content(place.finished()[step]).read("manifest.json"))
    return {path: entry["chunks"] for path, entry in content["leaves"].items()}


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["s3", "gs", ""])
def test_a_killed_run_goes_on_from_there_and_equals_an_unbroken_one(
    start, server, scheme, tmp_path, monkeypatch
):
    elsewhere = f"{scheme}://{object_store.BUCKET}/a" if scheme else str(tmp_path / "elsewhere")
    start("unbroken", "", *STEPS)
    with monkeypatch.context() as patch, pytest.raises(tiny_jobs.Killed):
        patch.setenv("KILL", "23")
        start("broken", elsewhere, *STEPS)
    assert list(places.open_place(f"{elsewhere}/tiny/run").finished()) == [12]
    assert [one["step"] for one in _records(tmp_path / "broken" / "run")] == list(range(1, 15))
    start("broken", elsewhere, *STEPS)
    unbroken, broken = (tmp_path / name / "run" for name in ("unbroken", "broken"))
    assert _records(broken) == _records(unbroken)
    assert _arrays(f"{elsewhere}/tiny/run", 24) == _arrays(unbroken / "checkpoints", 24)
    assert not (broken / "checkpoints").exists()

    for name, run in (("one", unbroken), ("other", broken)):
        convert.main([f"--from-run={run}", f"--to={tmp_path / name}"])
    one, other = (native.part_reader(tmp_path / name)("params/embed") for name in ("one", "other"))
    np.testing.assert_array_equal(one.read().result(), other.read().result())


@pytest.mark.long
def test_another_working_directory_is_refused_unless_it_is_allowed(start, server, tmp_path, capsys):
    where = f"s3://{object_store.BUCKET}/a"
    short = "train.checkpoint_interval_steps=4"
    start("first", where, "train.num_steps=4", short)
    with pytest.raises(SystemExit, match="2"):
        start("second", where, "train.num_steps=4", short)
    assert f"{where}/tiny holds the checkpoints of" in capsys.readouterr().err
    assert not (tmp_path / "second").exists()
    allow = "resume.allow=train.checkpoint_dir"
    start("second", where, "train.num_steps=8", short, allow)
    assert [one["step"] for one in _records(tmp_path / "second" / "run")] == [5, 6, 7, 8]
    with pytest.raises(SystemExit, match="2"):
        start("first", where, "train.num_steps=4", short)


@pytest.mark.parametrize("fault", [503, 403])
def test_a_store_that_cannot_be_used_is_one_line_and_nothing_is_written(
    start, server, fault, tmp_path, capsys
):
    server.fault = fault
    with pytest.raises(SystemExit, match="2"):
        start("work", f"s3://{object_store.BUCKET}/a")
    assert "checkpoint_dir cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "work").exists() and server.objects == {}


@pytest.mark.long
def test_a_store_gone_at_the_end_leaves_the_run_unfinished(start, server, tmp_path, capsys):
    """It is gone from the save of step 8 on; a second run does what is missing."""
    where = f"s3://{object_store.BUCKET}/a"
    edits = ("train.num_steps=12", "train.checkpoint_interval_steps=4")
    server.before = lambda method, key: _break_at(server, key)
    with pytest.raises(SystemExit, match="4"):
        start("work", where, *edits)
    told = capsys.readouterr().err
    assert (told.count("save_failed"), told.count("goes on from step 4")) == (1, 1)
    assert not (tmp_path / "work" / "run" / "result.json").exists()
    server.before, server.fault = lambda method, key: None, None
    start("work", where, *edits)
    assert [one["step"] for one in _records(tmp_path / "work" / "run")] == list(range(1, 13))


def _break_at(server, key):
    if "/run/8-" in key:
        server.fault = 503
