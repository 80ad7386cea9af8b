"""Runs of curation end to end: what they write, that they go on after a fault, what they refuse."""

import hashlib
import itertools
import json
import re
import subprocess
import sys
import time

import curated
import pytest
from small_corpora import write_jsonl

from kanana_jax import config
from kanana_jax.data import sources
from kanana_jax.data.curate import (
    __main__ as command,
)
from kanana_jax.data.curate import (
    duplicates,
    heuristics,
    language,
    locking,
    normalise,
    running,
    shards,
)

STAGES = [
    normalise.stage(), language.stage(["ko"], 0.5), heuristics.stage(0.05), duplicates.exact(),
    duplicates.near(0.8),
]  # fmt: skip


def _texts():
    korean = curated.prose("ko", 40)
    return [*korean[:30], "1 2 3", *korean[10:20], "\u00e9" * 300, korean[30] + " ", *korean[30:]]


def _plan(stages=STAGES, shard_bytes=2500):
    documents = curated.documents(_texts())
    return running.Plan("texts", lambda: documents, stages, shard_bytes)


def _files(folder):
    """The content of every file that a run leaves."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _run(plan, out, num_workers=1):
    return running.run(plan, out, num_workers=num_workers, tell=lambda line: None)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "out"
    _run(_plan(), folder)
    return folder


def test_each_document_is_kept_or_dropped_with_a_reason(unbroken):
    kept = [
        json.loads(line)
        for path in sorted((unbroken / "documents").iterdir())
        for line in path.read_text().splitlines()
    ]
    assert [one["text"] for one in kept] == curated.prose("ko", 40)
    assert {one["language"] for one in kept} == {"ko"}
    dropped = [
        json.loads(line)
        for path in sorted((unbroken / "dropped").rglob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    reasons = sorted(one["reason"] for one in dropped)
    assert reasons == ["another language", *["duplicate"] * 11, "too few letters"]
    assert len(kept) + len(dropped) == len(_texts())


def test_the_report_adds_up(unbroken):
    stages = json.loads((unbroken / "report.json").read_text())["stages"]
    for before, after in itertools.pairwise(stages):
        dropped = sum(one[0] for reason in after["dropped"].values() for one in reason.values())
        assert _number(before) == _number(after) + dropped
    assert stages[-1]["kept"]["ko"][0] == 40
    text = (unbroken / "report.md").read_text()
    assert re.search(r"\| 04-exact \| 40 \| 0.0\d \| 11 \| duplicate 11 \|", text)
    assert "| 02-language | another language, - |" in text


def _number(stage):
    return sum(one[0] for one in stage["kept"].values())


def test_training_reads_the_documents(unbroken):
    cfg = config.DataConfig(paths=(str(unbroken / "documents" / "*.jsonl"),))
    texts = [text.decode() for one in sources.open_sources(cfg) for text in one.read()]
    assert texts == curated.prose("ko", 40)


class _Fault(Exception):
    pass


@pytest.mark.parametrize("function", ["survey", "decide", "apply"])
def test_a_run_that_was_ended_goes_on_to_the_same_bytes(unbroken, tmp_path, function):
    """Each run gets one call further than the run before, then fails and leaves its folder."""
    num_faults, calls = 0, 0

    def faulty(inner):
        def call(*args):
            nonlocal calls
            calls += 1
            if calls > 1:  # one call further than the run before
                raise _Fault
            return inner(*args)

        return inner and call

    for _ in range(200):
        calls = 0
        stages = [
            running.Stage(**{**vars(one), function: faulty(getattr(one, function))})
            for one in STAGES
        ]
        try:
            _run(_plan(stages), tmp_path / "out")
            break
        except _Fault:
            num_faults += 1
    assert num_faults >= {"survey": 9, "decide": 2, "apply": 9}[function]
    assert _files(tmp_path / "out") == _files(unbroken)


def test_a_torn_file_is_written_again(unbroken, tmp_path):
    """What a kill while a file is written leaves beside it."""
    out = tmp_path / "out"
    shards.write_json(out / "plan.json", _plan().to_json())
    torn = out / "work" / "00-read" / ".0000.jsonl.unfinished"
    torn.parent.mkdir(parents=True)
    torn.write_text('{"id": "a", "te')
    _run(_plan(), out)
    assert _files(out) == _files(unbroken)


@pytest.mark.long
def test_processes_change_no_byte(unbroken, tmp_path):
    _run(_plan(), tmp_path / "out", num_workers=2)
    assert _files(tmp_path / "out") == _files(unbroken)


@pytest.mark.long
def test_a_killed_command_goes_on_to_the_same_bytes(tmp_path):
    """Killed with SIGKILL, each time later; the next run waits until the workers have ended."""
    path = write_jsonl(tmp_path / "in.jsonl", _texts() * 20)
    flags = ["--languages=ko", "--shard-mb=0.01"]
    wanted, out = tmp_path / "unbroken", tmp_path / "out"

    def start(to):
        line = [sys.executable, "-m", "kanana_jax.data.curate", str(path), f"--to={to}", *flags]
        return subprocess.Popen(
            [*line, "--num-workers=2"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )

    begin = time.monotonic()
    assert start(wanted).wait() == 0
    num_kills, seconds = 0, 0.4 * (time.monotonic() - begin)  # most of it is imports
    while True:
        process = start(out)
        try:
            assert process.wait(seconds) == 0
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            num_kills, seconds = num_kills + 1, 1.5 * seconds
    assert num_kills > 1
    assert _files(out) == _files(wanted)


def test_a_finished_run_stays_as_it_is(unbroken):
    before = _files(unbroken)
    _run(_plan([one for one in STAGES]), unbroken)
    assert _files(unbroken) == before


def test_another_plan_is_refused_in_the_same_folder(unbroken, tmp_path):
    with pytest.raises(config.ConfigError, match="has a run with other stages"):
        _run(_plan(STAGES[:2]), unbroken)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(config.ConfigError, match="must be a new or empty folder"):
        _run(_plan(), tmp_path)


def test_a_folder_has_one_run_at_a_time(tmp_path):
    with (
        locking.held(tmp_path),
        pytest.raises(config.ConfigError, match="in use by another run"),
        locking.held(tmp_path),
    ):
        pass


def _command(tmp_path, *flags):
    path = write_jsonl(tmp_path / "in.jsonl", _texts())
    command.main([str(path), f"--to={tmp_path / 'out'}", "--languages=ko", *flags])


def test_the_command_writes_what_a_plan_writes(unbroken, tmp_path, capsys):
    _command(tmp_path, "--shard-mb=0.0025")
    documents = {name: one for name, one in _files(tmp_path / "out").items() if "documents" in name}
    assert len(documents) > 3
    told = capsys.readouterr()
    assert told.out == f"{tmp_path / 'out' / 'report.md'}\n"
    assert told.err.splitlines()[-1] == "05-minhash: 40 documents kept (0.02 MB), 0 dropped"


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    _command(tmp_path, "--dry-run", "--stages=heuristics,exact")
    told = capsys.readouterr().out
    assert "01-heuristics: most_dropped=0.05\n02-exact: no settings\n" in told
    assert not (tmp_path / "out").exists()


def test_text_that_python_brings_is_told_by_what_is_installed(tmp_path, capsys):
    command.main(["python:packages", f"--to={tmp_path / 'out'}", "--dry-run"])
    assert "reads python:packages\n" in capsys.readouterr().out
    (told,) = command.plan_of(command._parser().parse_args(["python:packages", "--to=x"])).inputs[
        "files"
    ]
    assert any(one.startswith("jax ") for one in told["packages"])


@pytest.mark.parametrize(
    ("flag", "wanted"),
    [
        ("--stages=exact,dedup", "--stages must be of normalise,.*'exact,dedup'"),
        ("--stages=exact,exact", "each at most once"),
        ("--stages=decontaminate", "needs --against=FILE"),
        ("--stages=perplexity", "needs --model=FOLDER"),
        ("--stages=education", "needs --labels=FILE.jsonl"),
        ("--against=x.jsonl", "--against is of the stage decontaminate"),
        ("--model=x", "--model is of the stage perplexity or education"),
        ("--most-dropped=2", r"--most-dropped must lie in \[0, 1\], got 2.0"),
        ("--num-workers=0", r"--num-workers must lie in \[1, 1024\], got 0"),
        ("missing.jsonl", "'missing.jsonl' does not exist"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(tmp_path, capsys, flag, wanted):
    with pytest.raises(SystemExit) as ended:
        _command(tmp_path, flag)
    assert ended.value.code == 2
    assert re.search(wanted, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
