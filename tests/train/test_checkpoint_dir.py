"""Runs through the command whose checkpoints lie elsewhere: in a folder, or in an object store."""

import dataclasses
import json

import numpy as np
import object_store
import pytest

from kanana_jax import convert, main
from kanana_jax.checkpoint import objects, places
from kanana_jax.report import metrics
from kanana_jax.train import compare
from kanana_jax.weights import native

pytestmark = pytest.mark.slow
EMPTY = '""'


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
def start(exp, tmp_path, monkeypatch):
    """start(name, checkpoint_dir, *edits) runs the command in the working directory `name`."""
    cached = dataclasses.replace(exp.data, cache_dir=str(tmp_path / "cache"))
    monkeypatch.setattr(main, "load_experiment", lambda name: dataclasses.replace(exp, data=cached))
    monkeypatch.setattr(compare, "write_report", lambda exp, runs, workdir: "done")

    def fn(name, checkpoint_dir, *edits):
        edits = ["mesh.data=-1", f"train.checkpoint_dir={checkpoint_dir or EMPTY}", *edits]
        monkeypatch.setattr(main, "_SET", _Flag(edits))
        monkeypatch.setattr(main, "_EXPERIMENT", _Flag("tiny"))
        monkeypatch.setattr(main, "_WORKDIR", _Flag(str(tmp_path / name)))
        main.main(["main"])

    return fn


@dataclasses.dataclass
class _Flag:
    value: object


def _records(run):
    lines = map(json.loads, (run / metrics.METRICS_NAME).read_text().splitlines())
    return [{key: value for key, value in one.items() if key != "seconds"} for one in lines]


def _arrays(where, step):
    place = places.open_place(where)
    content = json.loads(place.content(place.finished()[step]).read("manifest.json"))
    return {path: entry["chunks"] for path, entry in content["leaves"].items()}


@pytest.mark.parametrize(
    "scheme", ["s3", *(pytest.param(one, marks=pytest.mark.long) for one in ("gs", ""))]
)
def test_a_killed_run_goes_on_from_there_and_equals_an_unbroken_one(
    start, server, scheme, tmp_path, killed_at_step
):
    elsewhere = f"{scheme}://{object_store.BUCKET}/a" if scheme else str(tmp_path / "elsewhere")
    start("unbroken", "")
    with killed_at_step(7):
        start("broken", elsewhere)
    assert list(places.open_place(f"{elsewhere}/test/run").finished()) == [4]
    start("broken", elsewhere)
    unbroken, broken = (tmp_path / name / "run" for name in ("unbroken", "broken"))
    assert _records(broken) == _records(unbroken)
    assert _arrays(f"{elsewhere}/test/run", 12) == _arrays(unbroken / "checkpoints", 12)
    assert not (broken / "checkpoints").exists()

    for name, run in (("one", unbroken), ("other", broken)):
        convert.main([f"--from-run={run}", f"--to={tmp_path / name}"])
    one, other = (native.part_reader(tmp_path / name)("params/embed") for name in ("one", "other"))
    np.testing.assert_array_equal(one.read().result(), other.read().result())


def test_another_working_directory_is_refused_unless_it_is_allowed(start, server, tmp_path, capsys):
    where = f"s3://{object_store.BUCKET}/a"
    start("first", where, "train.num_steps=4")
    with pytest.raises(SystemExit, match="2"):
        start("second", where, "train.num_steps=4")
    assert f"{where}/test holds the checkpoints of" in capsys.readouterr().err
    assert not (tmp_path / "second").exists()
    allow = "resume.allow=train.checkpoint_dir"
    start("second", where, "train.num_steps=8", allow)
    assert [one["step"] for one in _records(tmp_path / "second" / "run")] == [5, 6, 7, 8]
    with pytest.raises(SystemExit, match="2"):
        start("first", where, "train.num_steps=4")


@pytest.mark.parametrize("fault", [503, 403])
def test_a_store_that_cannot_be_used_is_one_line_and_nothing_is_written(
    start, server, fault, tmp_path, capsys
):
    server.fault = fault
    with pytest.raises(SystemExit, match="2"):
        start("work", f"s3://{object_store.BUCKET}/a")
    assert "checkpoint_dir cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "work").exists() and server.objects == {}


def test_a_store_gone_at_the_end_leaves_the_run_unfinished(start, server, tmp_path, capsys):
    """From its save of step 8 on; a second run does what is missing."""
    where = f"s3://{object_store.BUCKET}/a"
    server.before = lambda method, key: _break_at(server, key)
    with pytest.raises(SystemExit, match="4"):
        start("work", where)
    told = capsys.readouterr().err
    assert (told.count("save_failed"), told.count("goes on from step 4")) == (1, 1)
    assert not (tmp_path / "work" / "run" / "result.json").exists()
    server.before, server.fault = lambda method, key: None, None
    start("work", where)
    assert [one["step"] for one in _records(tmp_path / "work" / "run")] == list(range(1, 13))


def _break_at(server, key):
    if "/run/8-" in key:
        server.fault = 503
