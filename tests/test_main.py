"""The command line: what a user types, and what it says when that cannot work."""

import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import command_line
import pytest
import tiny_jobs

from kanana_jax import config, main
from kanana_jax.config import listing, ranges
from kanana_jax.jobs import (
    pipeline,
    pretrain,
    sft,
    spoken_load,
    sweep,
)

ROOT = Path(__file__).parents[1]


def _command(*arguments, timeout_s=300, cwd=ROOT, environ=None):
    return subprocess.run(
        [sys.executable, "-m", "kanana_jax.main", *arguments],
        cwd=cwd,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | (environ or {}),
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--experiment=nope",), "must be one of .*muon_stress"),
        ((), "must be one of"),
        (("--experiment=muon_stress", "extra"), "unexpected arguments"),
        (("--experiment=muon_stress", "--set=a.b=1"), "unknown setting 'a.b'"),
        (("--experiment=muon_stress", "--set=train.num_steps=x"), "must be of type int"),
        (("--experiment=muon_stress", "--set=train.num_steps=20"), "needs warmup_steps"),
        (("--experiment=muon_stress", "--set=optimizer.name=adamw"), "what the arms compare"),
        (("--experiment=muon_stress", "--set=data.batch_size=7", "--set=mesh.data=2"), "mesh"),
        (("--experiment=muon_stress", "--set=data.paths=/no/such.txt"), "does not exist"),
    ],
)
def test_a_bad_command_is_one_line_and_writes_nothing(
    arguments, message, tmp_path, monkeypatch, capsys
):
    """In one process, through the same function that the command runs."""
    workdir = tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        command_line.run(f"--workdir={workdir}", *arguments)
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert re.search(message, shown), shown
    assert shown.startswith("kanana_jax: ")
    assert shown.count("\n") == 1
    assert not workdir.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"too short", b"\xff\xfe\x00bad"])
def test_a_corpus_that_cannot_be_used_is_refused(content, tmp_path, capsys):
    path, workdir = tmp_path / "text.txt", tmp_path / "run"
    path.write_bytes(content)
    edits = f"--set=data.paths={path}", f"--set=data.cache_dir={tmp_path / 'cache'}"
    with pytest.raises(SystemExit, match="2"):
        command_line.run("--experiment=muon_stress", *edits, f"--workdir={workdir}")
    shown = capsys.readouterr().err
    assert shown.startswith("kanana_jax: ") and shown.count("\n") == 1
    assert not workdir.exists()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A user's folder, in which the program is started: its modules come first, as with -m."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = dict(sys.modules)
    yield tmp_path
    # Not what else came: numpy and scipy cannot be loaded twice.
    theirs = {"experiments"} | {path.stem for path in tmp_path.iterdir()}
    for name in set(sys.modules) - set(before):
        if name.partition(".")[0] in theirs:
            del sys.modules[name]
    sys.modules.update(before)


@pytest.mark.parametrize("name", ["experiments/__init__.py", "experiments.py"])
def test_a_package_of_the_users_called_experiments_hides_none_of_ours(project, name):
    path = project / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("x = 1\n")
    for module in [one for one in sys.modules if one.partition(".")[0] == "experiments"]:
        del sys.modules[module]
    theirs = importlib.import_module("experiments")
    assert theirs.x == 1
    for ours in main.experiment_names():
        assert main.load_experiment(ours).experiment().name == ours
    assert importlib.import_module("experiments") is theirs


_MINE = """
import dataclasses
from experiments import sft_small
from beside import NAME

run = sft_small.run

def experiment():
    return dataclasses.replace(sft_small.experiment(), name=NAME)
"""


@pytest.mark.parametrize("name", ["mine.tuned", "mine/tuned.py", "{}/mine/tuned.py"])
def test_an_experiment_of_the_users_is_named_by_its_file_or_module(project, name):
    (project / "mine").mkdir()
    (project / "mine" / "__init__.py").write_text("")
    (project / "mine" / "tuned.py").write_text(_MINE)
    (project / "mine" / "beside.py").write_text("NAME = 'mine'\n")
    (project / "beside.py").write_text("NAME = 'mine'\n")
    module = main.load_experiment(name.format(project))
    assert module.experiment().name == "mine" and module.run is sft.run


_TINY = """
import tiny_jobs
from kanana_jax.jobs import pretrain

run = pretrain.run

def experiment():
    return tiny_jobs.pretraining("words.txt", name="mine")
"""


@pytest.mark.long
def test_an_experiment_outside_the_repository_runs_by_its_module_and_by_its_file(tmp_path):
    """The second finds the run of the first finished, and shows the same report."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "tiny.py").write_text(_TINY)
    tiny_jobs.write_text(tmp_path / "words.txt")
    environ = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    edits = ("train.num_steps=2", "optimizer.name=adamw")
    flags = [f"--set={edit}" for edit in edits]
    answers = [
        _command(f"--experiment={name}", *flags, cwd=tmp_path, environ=environ)
        for name in ("mine.tiny", "mine/tiny.py")
    ]
    for answer in answers:
        assert answer.returncode == 0, answer.stderr
    assert "bits per byte" in answers[0].stdout == answers[1].stdout
    run = tmp_path / "runs" / "mine" / "run"
    assert json.loads((run / "result.json").read_text())["steps"] == 2
    assert json.loads((run / "run.json").read_text())["config"]["optimizer"]["name"] == "adamw"


_RUN = "def run(cfg, workdir): raise AssertionError\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.py", None, "must be one of .*muon_stress"),
        ("absent.module", None, "must be one of .*muon_stress"),
        (".relative", None, "is no module"),
        ("empty.py", "", r"must have a function experiment\(\)"),
        ("no_run.py", "def experiment(): return 3", r"must have a function run\(\)"),
        ("no_call.py", f"{_RUN}experiment = 3", r"must have a function experiment\(\)"),
        (
            "wrong.py",
            f"{_RUN}def experiment(): return 3",
            "a job's configuration, got int",
        ),
        ("__init__", None, "must be one of"),
    ],
)
def test_what_is_no_experiment_is_refused(project, capsys, name, content, message):
    if content is not None:
        (project / name).write_text(content)
    for more in ((), ("--print_config",)):
        with pytest.raises(SystemExit, match="2"):
            command_line.run(f"--experiment={name}", *more)
        shown = capsys.readouterr().err
        assert re.search(message, shown) and shown.count("\n") == 1, shown
    with pytest.raises(config.ConfigError, match=message):
        main.help_text(name)


def test_an_error_in_a_users_module_is_shown_as_it_is(project):
    (project / "mine").mkdir()
    (project / "mine" / "broken.py").write_text("import not_installed_at_all\n")
    with pytest.raises(ModuleNotFoundError, match="not_installed_at_all"):
        main.load_experiment("mine.broken")


def _rows(text):
    """The lines of a listing by the path that each begins with."""
    return {line.split()[0]: line for line in text.splitlines() if line.strip()}


def _values(cfg):
    return {one.path: one for one in listing.settings(cfg)}


@pytest.mark.long
def test_help_lists_every_experiment_with_its_question_and_every_setting_with_its_type():
    answer = _command("--help")
    assert answer.returncode == 0, answer.stderr
    rows = _rows(answer.stdout)
    for name in main.experiment_names():
        question = main.load_experiment(name).experiment().question
        assert question and rows[name].split(maxsplit=1)[1] == question
    kinds = {path: kind for path, kind in _kinds(pretrain.Config) if path != "model.yarn"}
    assert len(kinds) > 80
    for path, kind in kinds.items():
        for word in _words(kind):
            assert word in rows[path].split(maxsplit=1)[1], path
    assert "YarnConfig or none" in rows["model.yarn"]


def _kinds(owner, prefix=""):
    """The paths of all settings below a dataclass, and their annotations."""
    for name, kind in typing.get_type_hints(owner, include_extras=True).items():
        if dataclasses.is_dataclass(kind):
            yield from _kinds(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", kind


def _words(kind):
    """What a line about a setting must say: the name of its type, its range, its words."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        limits = [f"in {one}" for one in args[1:] if isinstance(one, ranges.Range)]
        return [*_words(args[0]), *limits]
    if origin is typing.Literal:
        return [", ".join(args)]
    if args:
        return [word for one in args if one is not Ellipsis for word in _words(one)]
    return [{str: "text", bool: "true or false", type(None): "none"}.get(kind) or kind.__name__]


@pytest.mark.parametrize("arguments", [("--experiment=sft_small",), ("--experiment", "sft_small")])
def test_help_of_an_experiment_lists_its_settings_with_their_values(arguments, capsys):
    with pytest.raises(SystemExit, match="0"):
        main._parse(["main", *arguments, "--help"])
    shown = capsys.readouterr().out
    cfg = main.load_experiment("sft_small").experiment()
    assert shown.startswith(f"sft_small: {cfg.question}\n")
    rows = _rows(shown)
    assert _values(cfg).keys() <= rows.keys()
    for path, one in _values(cfg).items():
        assert rows[path].endswith(f"{one.holds.split()[-1]}  {one.value!r}") or (
            one.holds in rows[path] and rows[path].endswith(f"  {one.value!r}")
        )
    assert "optimizer.lr" in rows and rows["optimizer.lr"].endswith("0.002")


def test_help_of_a_comparison_names_its_arms_and_axes():
    shown = main.help_text("muon_stress")
    assert "arm 'MuonClip': optimizer.name=muonclip, optimizer.polar=polar_express" in shown
    assert "optimizer.lr = 0.004, 0.015, 0.06" in shown and "seeds = 1" in shown


def test_help_of_what_is_no_experiment_is_one_line():
    answer = _command("--experiment=nope", "--help")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith("kanana_jax: --experiment must be one of")
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize("name", main.experiment_names())
def test_the_printed_configuration_is_the_one_that_would_run(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = main.load_experiment(name).experiment()
    edits = ["train.eval_interval_steps=99", "execution.scan_layers=false"]
    if isinstance(made, spoken_load.Config):
        edits = ["seconds=9.5", "listeners=1,2"]
    elif isinstance(made, pipeline.Pipeline):
        edits = [f"base.{edit}" for edit in edits]
    elif not name.startswith("vision_"):  # which draws what it reads
        # As many as before, for arms may weigh them.
        before = getattr(made, "base", made).data.paths
        edits.append(f"data.paths={','.join(['a.txt', 'b c.txt', *before[2:]])}")
    command_line.run(f"--experiment={name}", *(f"--set={edit}" for edit in edits), "--print_config")
    shown = json.loads(capsys.readouterr().out)
    cfg = made.edited(edits)
    kind = type(cfg)
    if kind is pipeline.Pipeline:
        for stage, one in zip(cfg.stages, shown["stages"], strict=True):
            found = one["config"].get("base", one["config"])  # of a comparison, or alone
            assert config.from_json(type(stage.base), found) == stage.base
    elif kind is sweep.Sweep:
        assert config.from_json(type(cfg.base), shown["base"]) == cfg.base
        assert [config.from_json(sweep.Arm, arm) for arm in shown["arms"]] == [*cfg.arms]
    else:
        assert config.from_json(kind, shown) == cfg
    assert list(tmp_path.iterdir()) == []
