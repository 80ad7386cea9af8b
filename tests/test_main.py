"""The command line: what a user types, and what it says when that cannot work."""

import dataclasses
import functools
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from kanana_jax import config, main, parallel
from kanana_jax.train import loss
from kanana_jax.train import step as step_lib

ROOT = Path(__file__).parents[1]


def _command(*arguments, timeout_s=300):
    return subprocess.run(
        [sys.executable, "-m", "kanana_jax.main", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
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
    flags = main.flags.FLAGS
    monkeypatch.chdir(tmp_path)
    flags.unparse_flags()
    rest = flags(["main", f"--workdir={workdir}", *arguments])
    try:
        with pytest.raises(SystemExit) as stopped:
            main.main(rest)
    finally:
        flags.unparse_flags()
        for name in ("experiment", "set", "workdir"):
            flags[name].unparse()
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert re.search(message, shown), shown
    assert shown.startswith("kanana_jax: ")
    assert shown.count("\n") == 1
    assert not workdir.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"too short", b"\xff\xfe\x00bad"])
def test_a_corpus_that_cannot_be_used_is_refused(content, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    answer = _command(
        "--experiment=muon_stress", f"--set=data.paths={path}", f"--workdir={tmp_path / 'run'}"
    )
    assert answer.returncode == 2, answer.stderr
    assert answer.stderr.startswith("kanana_jax: ")
    assert answer.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A user's folder, in which the program is started: its modules come first, as with -m."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = dict(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - set(before):
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
        assert main.load_experiment(ours).name == ours
    assert importlib.import_module("experiments") is theirs


_MINE = """
import dataclasses
from experiments import muon_stress
from beside import NAME

def experiment():
    return dataclasses.replace(muon_stress.experiment(), name=NAME)
"""


@pytest.mark.parametrize("name", ["mine.stress", "mine/stress.py", "{}/mine/stress.py"])
def test_an_experiment_of_the_users_is_named_by_its_file_or_module(project, name):
    (project / "mine").mkdir()
    (project / "mine" / "__init__.py").write_text("")
    (project / "mine" / "stress.py").write_text(_MINE)
    (project / "beside.py").write_text("NAME = 'mine'\n")
    assert main.load_experiment(name.format(project)).name == "mine"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.py", None, "must be one of .*muon_stress"),
        ("absent.module", None, "must be one of .*muon_stress"),
        (".relative", None, "is no module"),
        ("empty.py", "", "must have a function experiment"),
        ("wrong.py", "def experiment(): return 3", "must return a config.Experiment, got int"),
        ("__init__", None, "must be one of"),
    ],
)
def test_what_is_no_experiment_is_refused(project, name, content, message):
    if content is not None:
        (project / name).write_text(content)
    with pytest.raises(config.ConfigError, match=message):
        main.load_experiment(name)


def test_an_error_in_a_users_module_is_shown_as_it_is(project):
    (project / "mine").mkdir()
    (project / "mine" / "broken.py").write_text("import not_installed_at_all\n")
    with pytest.raises(ModuleNotFoundError, match="not_installed_at_all"):
        main.load_experiment("mine.broken")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "muon_stress" else pytest.mark.slow)
        for name in main.experiment_names()
    ],
)
def test_every_experiment_can_take_a_step(name):
    """Traced with every arm's optimizer, without arrays."""
    exp = main.load_experiment(name)
    assert exp.name == name
    mesh = parallel.make_mesh(exp.mesh, jax.devices()[:1])
    edits = [arm.edits for arm in exp.arms] or [()]
    for arm_edits in edits:
        one = config.edit(dataclasses.replace(exp, arms=(), lrs=()), arm_edits)
        one = config.edit(one, ["model.vocab_size=258"])
        steps = step_lib.build(one, mesh)
        batch = loss.abstract_batch(exp.data.batch_size, exp.data.seq_len, mesh)
        train = functools.partial(step_lib.train_step, exp=one)
        after, record = jax.eval_shape(train, steps.like, batch, 0.01)
        assert jax.tree.structure(after) == jax.tree.structure(steps.like)
        assert record["max_logits"].shape == (one.model.num_layers, one.model.num_heads)
