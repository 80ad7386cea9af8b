"""Runs from the corpus to the result: resuming, divergence, comparison, report."""

import dataclasses
import json
import math
import os

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from kanana_jax import config, data, parallel
from kanana_jax.report import metrics, progress, results
from kanana_jax.train import compare, loop
from kanana_jax.train import step as step_lib
from kanana_jax.workdir import lock, recorder


def _run(exp, corpus, directory):
    exp = record.with_vocab(exp, corpus.vocab_size)
    mesh = parallel.make_mesh(exp.mesh, jax.devices()[:1])
    steps = step_lib.build(exp, mesh)
    loop.run(exp, corpus, directory, mesh, steps, arm="arm", sweep=progress.Sweep())
    return metrics.read_metrics(directory / metrics.METRICS_NAME)


def _assert_same_columns(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted.keys() - {"seconds"}:
        for one, other in zip(found[name], wanted[name], strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(exp, corpus, tmp_path, killed_at_step):
    unbroken = _run(exp, corpus, tmp_path / "unbroken")
    with killed_at_step(7):
        _run(exp, corpus, tmp_path / "broken")
    assert not (tmp_path / "broken" / results.RESULT_NAME).exists()
    _assert_same_columns(_run(exp, corpus, tmp_path / "broken"), unbroken)
    found, wanted = (results.load(tmp_path / name) for name in ("broken", "unbroken"))
    assert found.final_heldout_bpb == wanted.final_heldout_bpb


def test_a_run_records_what_the_report_needs(exp, corpus, tmp_path):
    columns = _run(exp, corpus, tmp_path)
    every_step = {"loss", "max_logit", "max_logits", "clip_count", "min_gamma", "grad_rms", "lr"}
    for name in every_step:
        np.testing.assert_array_equal(columns[name].steps_N, np.arange(1, 13), err_msg=name)
    np.testing.assert_array_equal(columns["heldout_bpb"].steps_N, [4, 8, 12])
    # Arms are compared by the losses of single sequences at the end.
    np.testing.assert_array_equal(columns["heldout_nats"].steps_N, [12])
    heldout = results.load(tmp_path).heldout
    bpb = heldout.nats_S.sum() / heldout.bytes_S.sum() / math.log(2)
    assert columns["heldout_bpb"].values_N[-1] == pytest.approx(bpb, rel=1e-12)
    np.testing.assert_array_equal(columns["qk_spectral_norm"].steps_N, [6, 12])
    assert columns["max_logits"].values_N.shape == (12, 1, 4)
    assert columns["loss"].values_N[-1] < columns["loss"].values_N[0]


@pytest.mark.slow
def test_a_run_that_becomes_nan_is_recorded_and_stops(exp, corpus, tmp_path, monkeypatch):
    build = step_lib.build

    def poisoned(*args):
        steps = build(*args)

        def train(state, batch, lr):
            state, record = steps.train(state, batch, lr)
            return state, record | {"loss": record["loss"] + (np.nan if state.step == 5 else 0.0)}

        return steps._replace(train=train)

    monkeypatch.setattr(step_lib, "build", poisoned)
    exp = config.edit(exp, ["guard.enabled=false"])
    columns = _run(exp, corpus, tmp_path)
    result = results.load(tmp_path)
    assert (result.status, result.diverged_step) == ("diverged", 5)
    assert columns["loss"].steps_N[-1] == 5


@pytest.mark.slow
def test_a_loss_above_its_start_counts_as_diverged(exp, corpus, tmp_path):
    exp = config.edit(exp, ["optimizer.name=adamw", "optimizer.lr=30"])
    _run(exp, corpus, tmp_path)
    assert results.load(tmp_path).diverged


_FLAT = np.full(60, 2.0)


@pytest.mark.parametrize(
    ("losses", "is_diverged"),
    [
        ([5.5], False),
        ([5.5, 6.5], False),
        (_FLAT, False),
        ([0.1, *_FLAT], False),  # an easy first batch
        ([*_FLAT, 40.0], False),  # a hard last one
        (np.linspace(2.0, 2.2, 60), False),
        (np.linspace(2.0, 3.0, 60), True),
        (np.linspace(5.5, 2.0, 60), False),
        ([5.5, *np.full(59, 90.0)], True),  # broke at the second step
        ([5.5, *np.full(11, 90.0)], True),
        ([5.5, *np.full(59, np.nan)], True),
        ([], False),
    ],
)
def test_diverged_is_an_end_well_above_the_start(losses, is_diverged):
    assert loop._is_diverged(np.array(losses, float), 258) == is_diverged


@hypothesis.given(st.lists(st.floats(0.5, 20.0), min_size=3, max_size=8), st.integers(1, 90))
def test_a_flat_loss_is_not_diverged_whichever_batches_it_is_of(kinds, num_steps):
    """Batches of a few kinds, in any order: what comes first says nothing about training."""
    order = np.random.default_rng(num_steps).integers(len(kinds), size=num_steps)
    losses = np.array(kinds)[order]
    apart = losses[-10:].min() > losses[:10].max() and num_steps >= 20
    assert apart or not loop._is_diverged(losses, 2**15)


def test_a_finished_run_that_was_taken_over_has_a_result(exp, tmp_path):
    """All its metrics are on the machine that is gone."""
    (tmp_path / metrics.METRICS_NAME).write_text("")
    loop._write_result(exp, "arm", tmp_path, None, "text")
    found = results.load(tmp_path)
    assert found.status == "ok" and math.isnan(found.final_loss)


def test_held_out_bits_per_byte_are_nats_over_bytes():
    nats, num_bytes = np.array([2.0, 4.0, 6.0]), np.array([2.0, 2.0, 4.0])
    found = recorder.heldout_metrics([(nats[:2], num_bytes[:2]), (nats[2:], num_bytes[2:])])
    assert found["heldout_bpb"] == pytest.approx(12.0 / 8.0 / math.log(2))
    residual = nats - 1.5 * num_bytes
    stderr = math.sqrt(3 * np.var(residual, ddof=1)) / 8.0 / math.log(2)
    assert found["heldout_bpb_stderr"] == pytest.approx(stderr)
    padded = recorder.heldout_metrics([(nats, num_bytes), (np.zeros(2), np.zeros(2))])
    assert padded["heldout_bpb_stderr"] == found["heldout_bpb_stderr"]
    np.testing.assert_array_equal(padded["heldout_nats"], nats)


@pytest.fixture
def comparison(exp):
    arms = (
        config.Arm(name="AdamW", edits=("optimizer.name=adamw",)),
        config.Arm(name="MuonClip", edits=("optimizer.name=muonclip",)),
    )
    short = dataclasses.replace(exp.train, num_steps=4)
    return dataclasses.replace(exp, arms=arms, lrs=(0.003, 0.01), train=short)


@pytest.mark.slow
def test_finished_arms_are_not_rerun(comparison, tmp_path, capsys, monkeypatch):
    one_device = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *args: one_device)
    compare.run(comparison, tmp_path)
    table = capsys.readouterr().out
    assert (tmp_path / "report.html").stat().st_size > 10_000
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(runs) == 4
    monkeypatch.setattr(loop, "run", None)  # calling it would raise
    compare.run(comparison, tmp_path)
    assert capsys.readouterr().out == table


def test_a_directory_of_another_configuration_is_refused(comparison, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "environment", dict)
        record.write(tmp_path, record.with_vocab(comparison, 258))
    before = (tmp_path / "config.json").read_text()
    record.check(tmp_path, comparison)
    other = config.edit(comparison, ["optimizer.tau=7"])
    with pytest.raises(config.ConfigError, match=r"optimizer\.tau: 0\.5 -> 7\.0"):
        record.check(tmp_path, other)
    assert (tmp_path / "config.json").read_text() == before


def test_allowed_settings_may_differ_and_are_named(comparison, tmp_path, monkeypatch):
    monkeypatch.setattr(record, "environment", dict)
    record.write(tmp_path, comparison)
    longer = config.edit(comparison, ["train.num_steps=9", "mesh.fsdp=2", "resume.allow=mesh"])
    with pytest.raises(
        config.ConfigError, match=r"\(train.num_steps: 4 -> 9\).*resume.allow=train"
    ):
        record.check(tmp_path, longer)
    allowed = config.edit(longer, ["resume.allow=mesh,train.num_steps"])
    assert record.check(tmp_path, allowed) == ["mesh.fsdp: 1 -> 2", "train.num_steps: 4 -> 9"]
    record.write(tmp_path, allowed)
    assert record.check(tmp_path, config.edit(allowed, ["resume.allow=[]"])) == []


def test_changed_text_is_refused_unless_allowed(exp, text_file, tmp_path):
    """The settings are the same, the file of that name is not."""
    copy = tmp_path / "words.txt"
    copy.write_text(text_file.read_text())
    exp = config.edit(exp, [f"data.paths={copy}"])
    opened = data.open_corpus(exp.data, tmp_path / "cache")
    record.write(tmp_path, exp, opened.fingerprint)
    record.check_data(tmp_path, exp, data.open_corpus(exp.data, tmp_path / "cache").fingerprint)
    copy.write_text(text_file.read_text().replace("muon", "mu0n", 1))
    other = data.open_corpus(exp.data, tmp_path / "cache").fingerprint
    with pytest.raises(config.ConfigError, match="the tokenizer has changed"):
        record.check_data(tmp_path, exp, other)
    record.check_data(tmp_path, config.edit(exp, ["resume.allow=data.paths"]), other)


def test_a_directory_in_use_is_refused_until_its_process_is_gone(tmp_path):
    with lock.held(tmp_path), pytest.raises(config.ConfigError, match=f"process {os.getpid()};"):
        lock.held(tmp_path).__enter__()
    with lock.held(tmp_path):
        pass


def test_the_plan_has_every_arm_at_every_rate_and_seed(comparison, tmp_path):
    runs = compare.plan(dataclasses.replace(comparison, seeds=3), tmp_path)
    found = {(run.arm, run.exp.optimizer.lr, run.exp.train.seed) for run in runs}
    assert len(found) == len(runs) == 2 * 2 * 3
    assert {run.exp.optimizer.name for run in runs if run.arm == "AdamW"} == {"adamw"}
    assert len({run.directory for run in runs}) == len(runs)


def test_what_a_run_says_of_itself(comparison, tmp_path):
    record.write(tmp_path, comparison)
    about = record.load(tmp_path)
    assert about["config"] == json.loads(config.to_json(comparison))
    assert about["versions"]["jax"] == jax.__version__
    assert about["device"].startswith("8 x cpu")
