"""Jobs as a whole, in one process: comparisons, what is repeated and what is not."""

import json

import pytest

from kanana_jax.jobs import pretrain, sweep
from kanana_jax.report import results


@pytest.fixture
def compared(cfg):
    arms = (
        sweep.Arm(name="AdamW", edits=("optimizer.name=adamw",)),
        sweep.Arm(name="MuonClip", edits=("optimizer.name=muonclip",)),
    )
    short = cfg.edited(["train.num_steps=4", "mesh.data=-1"])
    return sweep.Sweep(base=short, arms=arms, axes=(sweep.Axis("optimizer.lr", (0.003, 0.01)),))


def _no_source(*_):
    raise AssertionError("a finished run is not repeated")


@pytest.mark.long
def test_finished_arms_are_not_rerun(compared, tmp_path, capsys):
    sweep.of(pretrain.JOB)(compared, tmp_path)
    table = capsys.readouterr().out
    assert (tmp_path / "report.html").stat().st_size > 10_000
    runs = [results.load(path) for path in sorted((tmp_path / "runs").iterdir())]
    assert len(runs) == 4
    assert [tuple(run.axes.values()) for run in runs] == [
        (arm, lr, 0) for arm in ("AdamW", "MuonClip") for lr in (0.003, 0.01)
    ]
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["axes"] == [{"path": "optimizer.lr", "values": [0.003, 0.01]}]
    sweep.of(pretrain.JOB._replace(source=_no_source))(compared, tmp_path)
    assert capsys.readouterr().out == table


@pytest.mark.long
def test_a_report_of_the_experiments_own_judges_the_finished_runs(cfg, tmp_path, capsys):
    """And runs over an axis of the model's shape each have the shape that they name.

    The axis is the vocabulary, which is checked against the tokenizer too.
    """
    judged = []

    def write_report(runs, about, path):
        judged.append((runs, about, path))
        return "my verdict"

    base = cfg.edited(["train.num_steps=1", "mesh.data=-1", "model.vocab_size=258"])
    made = sweep.Sweep(base=base, axes=(sweep.Axis("model.vocab_size", (320, 258)),))
    sweep.of(pretrain.JOB, write_report)(made, tmp_path)
    assert capsys.readouterr().out.startswith("my verdict\n")
    ((runs, about, path),) = judged
    assert [run.config["model"]["vocab_size"] for run in runs] == [320, 258]
    assert [run.axes["model.vocab_size"] for run in runs] == [320, 258]
    assert about["config"]["name"] == "test" and path == tmp_path / "report.html"
