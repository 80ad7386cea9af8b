"""The command line: what a user types, and what it says when that cannot work."""

import dataclasses
import functools
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
