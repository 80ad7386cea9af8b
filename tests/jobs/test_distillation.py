"""Distillation from a model folder, from text to the report."""

import dataclasses
import json

import numpy as np
import pytest
import tiny_jobs

from kanana_jax import config, data
from kanana_jax.batch import Batch
from kanana_jax.data import teacher_store
from kanana_jax.jobs import distillation, stored_teacher
from kanana_jax.report import metrics
from kanana_jax.weights import native


@pytest.fixture(scope="module")
def folder(text_file, tmp_path_factory):
    """A teacher of bytes, wider than the student and without experts."""
    student = tiny_jobs.pretraining(text_file).model
    shape = dataclasses.replace(student, vocab_size=258, hidden_size=48, num_dense_layers=1)
    return tiny_jobs.write_model(tmp_path_factory.mktemp("teacher") / "model", shape)


@pytest.fixture
def cfg(text_file, folder, tmp_path):
    base = tiny_jobs.pretraining(text_file, mesh=config.MeshConfig())
    names = [field.name for field in dataclasses.fields(config.TrainingConfig)]
    fields = {name: getattr(base, name) for name in names}
    fields["train"] = dataclasses.replace(
        base.train, num_steps=4, checkpoint_interval_steps=2, z_loss_weight=0.0
    )
    fields["data"] = dataclasses.replace(base.data, cache_dir=str(tmp_path / "cache"))
    distill = config.DistillConfig(teacher=str(folder), divergence="top_k", num_tokens=4)
    return distillation.Config(**fields, distill=distill).edited(["optimizer.name=adamw"])


def _columns(cfg, workdir):
    distillation.run(cfg, workdir)
    return metrics.read_metrics(workdir / "run" / metrics.METRICS_NAME)


def _checkpointed(workdir):
    folder = workdir / "run" / "checkpoints"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.long
def test_a_cached_teacher_gives_the_losses_of_a_live_one_and_a_resumed_run_those_of_a_whole(
    cfg, tmp_path, monkeypatch
):
    live = _columns(cfg, tmp_path / "live")
    cfg = cfg.edited(["distill.outputs=cached"])
    whole = _columns(cfg, tmp_path / "whole")
    for name in ("loss", "divergence", "nll", "grad_rms", "heldout_bpb"):
        one, other = live[name].values_N, whole[name].values_N
        np.testing.assert_allclose(one, other, rtol=1e-5, err_msg=name)
    assert live["divergence"].values_N[0] > 0.01  # else a teacher of nothing would do
    # The teacher is in no checkpoint: they hold the same as those of a student without one.
    assert _checkpointed(tmp_path / "live") == _checkpointed(tmp_path / "whole") != []
    monkeypatch.setattr(stored_teacher, "_read", lambda *args: pytest.fail("made again"))
    with pytest.raises(tiny_jobs.Killed):
        _killed(cfg, tmp_path / "parts", monkeypatch)
    parts = _columns(cfg, tmp_path / "parts")
    np.testing.assert_array_equal(parts["loss"].values_N, whole["loss"].values_N)
    np.testing.assert_array_equal(parts["grad_rms"].values_N, whole["grad_rms"].values_N)


def _killed(cfg, workdir, monkeypatch):
    """Ends a run in its third batch, after a checkpoint."""
    real = stored_teacher.TaughtSource.batch

    def batch(source, number, weights):
        if number == 3:
            raise tiny_jobs.Killed
        return real(source, number, weights)

    with monkeypatch.context() as patch:
        patch.setattr(stored_teacher.TaughtSource, "batch", batch)
        _columns(cfg, workdir)


class _Text:
    """Batches that say their number."""

    fingerprint = "text"

    def batch(self, number, weights):
        return Batch.of_tokens(np.full((2, 4), number))


def _said(number):
    return {
        "teacher_ids": np.full((2, 3, 5), number, np.int32),
        "teacher_logp": np.full((2, 3, 6), -number / 3, np.float32),
    }


def test_batches_carry_what_was_stored_for_them_and_begin_anew_after_the_last(tmp_path):
    teacher_store.write(tmp_path / "store", map(_said, range(3)), "me")
    source = stored_teacher.TaughtSource(_Text(), teacher_store.opened(tmp_path / "store"), 3)
    for number in (0, 2, 1, 4):
        batch = source.batch(number, None)
        assert batch.tokens[0, 0] == number % 3
        for name, wanted in _said(number % 3).items():
            np.testing.assert_array_equal(batch.extra[name], wanted)
            assert batch.extra[name].dtype == wanted.dtype


def test_a_store_is_whole_or_not_there(tmp_path):
    def dying():
        yield _said(0)
        raise tiny_jobs.Killed

    with pytest.raises(tiny_jobs.Killed):
        teacher_store.write(tmp_path / "store", dying(), "me")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["manifest.json", "teacher_ids/c/0"])
def test_a_damaged_store_is_told(tmp_path, name):
    path = tmp_path / "store"
    teacher_store.write(path, map(_said, range(3)), "me")
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(data.StoreError, match=r"teacher store .* is damaged"):
        teacher_store.opened(path).batch(0)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (["distill.weight=0"], "distill.weight or distill.ce_weight must be over 0"),
        (["distill.divergence=sampled"], "sampled needs distill.outputs=cached, got live"),
        (
            ["distill.divergence=forward_kl", "distill.outputs=cached"],
            "forward_kl reads the whole vocabulary",
        ),
        (["train.z_loss_weight=1e-4"], "train.z_loss_weight must be 0 where distill.ce_weight is"),
    ],
)
def test_settings_that_do_not_fit_are_refused(cfg, edits, message):
    with pytest.raises(config.ConfigError, match=message):
        cfg.edited(edits)


def test_a_teacher_of_other_tokens_is_refused_before_anything_is_written(cfg, folder, tmp_path):
    shape = native.read_description(folder).cfg
    larger = tiny_jobs.write_model(tmp_path / "larger", dataclasses.replace(shape, vocab_size=300))
    with pytest.raises(config.ConfigError, match=r"expected 258 tokens.*got 300"):
        distillation.run(cfg.edited([f"distill.teacher={larger}"]), tmp_path / "work")
    other = tiny_jobs.write_model(tmp_path / "other", shape, tokenizer="{}")
    with pytest.raises(config.ConfigError, match=r"distill.teacher reads the tokens of .*other"):
        distillation.run(cfg.edited([f"distill.teacher={other}"]), tmp_path / "work")
    assert not (tmp_path / "work").exists() or not list((tmp_path / "work").iterdir())


def test_a_student_without_weights_cannot_be_its_own_teacher(cfg):
    nobody = cfg.edited(['distill.teacher=""'])
    with pytest.raises(config.ConfigError, match=r"distill.teacher must name a model folder"):
        distillation.JOB.check(None, nobody)
    distillation.JOB.check(None, nobody.edited(["train.init_from=somewhere"]))


def test_settings_come_back_from_json(cfg):
    content = json.loads(config.to_json(cfg))
    assert config.from_json(distillation.Config, content) == cfg
