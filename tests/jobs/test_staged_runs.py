"""Runs in stages: one state through all of them, whatever interrupts it."""

import dataclasses
import json

import numpy as np
import pytest
import tiny_jobs

from kanana_jax import config, optim
from kanana_jax.jobs import pretrain, training
from kanana_jax.report import metrics
from kanana_jax.weights import native, run_folder
from kanana_jax.workdir import Run

YARN = config.YarnConfig(factor=2.0, original_max_positions=32)


@pytest.fixture
def staged(cfg) -> pretrain.Config:
    """Steps 1 to 4, 5 to 7, 8 to 12: two batch sizes, two lengths, three rates."""
    stages = (
        config.StageConfig(name="small", tokens=4 * 8 * 32, lr_begin=0.5),
        config.StageConfig(name="large", tokens=3 * 16 * 32, batch_size=16, lr_begin=1.0),
        config.StageConfig(
            name="short", tokens=5 * 16 * 16, batch_size=16, seq_len=16, lr_begin=1.0, lr_end=0.0,
            yarn=YARN,
        ),
    )  # fmt: skip
    optimizer = dataclasses.replace(cfg.optimizer, schedule=config.ScheduleConfig(name="constant"))
    return dataclasses.replace(cfg, stages=stages, optimizer=optimizer, mesh=config.MeshConfig())


class Stumbling:
    """A source that kills the run as a batch is asked for."""

    def __init__(self, source, at):
        self._source, self._at, self.fingerprint = source, at, source.fingerprint

    def batch(self, number, weights):
        if number == self._at:
            raise tiny_jobs.Killed
        return self._source.batch(number, weights)


def _run(cfg, workdir, kill_at=-1):
    def source(*args):
        return Stumbling(pretrain.JOB.source(*args), kill_at)

    plan = training.Plan(cfg, {}, [Run({}, cfg, workdir / "run")], lambda *_: "done")
    training.run_all(pretrain.JOB._replace(source=source), plan, workdir)


def _columns(workdir):
    return metrics.read_metrics(workdir / "run" / metrics.METRICS_NAME)


@pytest.mark.long
def test_a_run_killed_in_every_stage_equals_an_unbroken_one_bit_for_bit(
    staged, tmp_path, capsys, monkeypatch
):
    forget, forgotten = optim.forget_norms, []
    monkeypatch.setattr(optim, "forget_norms", lambda x: forgotten.append(1) or forget(x))
    _run(staged, tmp_path / "unbroken")
    assert len(forgotten) == 2  # as the second and the third stage begin
    for kill_at in (3, 5, 8, 10):
        with pytest.raises(tiny_jobs.Killed):
            _run(staged, tmp_path / "broken", kill_at)
    _run(staged, tmp_path / "broken")
    wanted, found = (_columns(tmp_path / name) for name in ("unbroken", "broken"))
    assert wanted.keys() == found.keys()
    for name in tiny_jobs.untimed(wanted):
        np.testing.assert_array_equal(found[name].values_N, wanted[name].values_N, err_msg=name)

    stage_N = wanted["stage"].values_N
    np.testing.assert_array_equal(stage_N, [0] * 4 + [1] * 3 + [2] * 5)
    np.testing.assert_allclose(
        wanted["lr"].values_N / 0.01, [0.5] * 4 + [1.0] * 3 + [1.0, 0.8, 0.6, 0.4, 0.2], rtol=1e-6
    )
    # Every four steps, and where a stage ends.
    np.testing.assert_array_equal(wanted["heldout_bpb"].steps_N, [4, 7, 8, 12])
    assert "stage 2/3 large" in capsys.readouterr().err

    run_folder.import_run(tmp_path / "unbroken" / "run", tmp_path / "model")
    assert native.read_description(tmp_path / "model").cfg.yarn == YARN


@pytest.mark.slow
def test_a_source_that_would_run_dry_is_refused_with_the_numbers(staged, tmp_path):
    many = staged.edited(["stages.short.tokens=2560000", "max_epochs=4"])
    with pytest.raises(config.ConfigError, match=r"max_epochs = 4 .*words.txt \d+\.\d\d times"):
        _run(many, tmp_path)
    assert not (tmp_path / "run").exists()
    record = json.loads(config.to_json(staged.edited(["max_epochs=4"])))
    assert record["max_epochs"] == 4
