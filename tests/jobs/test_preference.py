"""Preference training on pairs, from a file to the report."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest
import tiny_jobs

from kanana_jax import config
from kanana_jax.jobs import preference, reference
from kanana_jax.report import metrics, results

WORDS = ("muon", "clip", "polar", "express")
NO_SIDE_EFFECTS = {"z_loss_weight": 0.0, "balance_loss_weight": 0.0, "router_bias_rate": 0.0}


def _fields(base):
    fields = dataclasses.fields(config.TrainingConfig)
    return {field.name: getattr(base, field.name) for field in fields}


@pytest.fixture
def cfg(tmp_path) -> preference.Config:
    """Pairs in which the answer "yes yes" is always preferred."""
    rng = np.random.default_rng(0)
    path = tmp_path / "pairs.jsonl"
    with path.open("w") as file:
        for number in range(60):
            prompt = f"{' '.join(rng.choice(WORDS, size=3))} {number}?"
            pair = {"prompt": prompt, "chosen": "yes yes", "rejected": "no"}
            file.write(json.dumps(pair) + "\n")
    data = config.DataConfig(
        paths=(str(path),), seq_len=128, batch_size=8, heldout_fraction=0.2,
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    base = tiny_jobs.pretraining(path, data=data, mesh=config.MeshConfig())
    base = base.edited(["optimizer.name=adamw"])  # compiles faster
    train = dataclasses.replace(base.train, **NO_SIDE_EFFECTS)
    # One objective in all tests, so that they share compiled steps.
    own = preference.PreferenceConfig(beta=0.5)
    return preference.Config(**_fields(base) | {"train": train, "preference": own})


@pytest.mark.long
def test_a_model_learns_what_is_preferred_from_the_file_to_the_report(cfg, tmp_path, capsys):
    cfg = cfg.edited(["train.num_steps=16"])
    preference.run(cfg, tmp_path / "work")
    columns = metrics.read_metrics(tmp_path / "work" / "run" / metrics.METRICS_NAME)
    # At first the model is its reference: every margin is 0.
    assert columns["loss"].values_N[0] == pytest.approx(np.log(2.0), abs=1e-5)
    assert columns["margin"].values_N[0] == pytest.approx(0.0, abs=1e-5)
    assert columns["margin"].values_N[-1] > 0.1
    result = results.load(tmp_path / "work" / "run")
    assert result.values["heldout_accuracy"] == 1.0
    assert "held-out pairs in the right order" in (tmp_path / "work" / "report.html").read_text()
    assert (tmp_path / "work" / "preference.png").stat().st_size > 10_000
    assert "heldout accuracy" in capsys.readouterr().out


@pytest.mark.long
def test_micro_batches_change_nothing_but_rounding(cfg, tmp_path):
    found = {}
    for count in (1, 2):
        edits = ["train.num_steps=3", "data.batch_size=16"]
        edits.append(f"execution.accumulation_steps={count}")
        preference.run(cfg.edited(edits), tmp_path / str(count))
        path = tmp_path / str(count) / "run" / metrics.METRICS_NAME
        found[count] = metrics.read_metrics(path)
    for name in ("loss", "margin", "chosen_reward", "grad_rms"):
        one, other = (found[count][name].values_N for count in (1, 2))
        np.testing.assert_allclose(other, one, rtol=2e-3, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", NO_SIDE_EFFECTS)
def test_what_moves_the_model_beside_the_loss_is_refused(cfg, name):
    with pytest.raises(config.ConfigError, match=f"train.{name} must be 0"):
        cfg.edited([f"train.{name}=0.001"])


def test_quantile_balancing_which_has_no_rate_is_refused(cfg):
    with pytest.raises(config.ConfigError, match=r"train.router_balance must be sign"):
        cfg.edited(["train.router_balance=quantile"])


def test_settings_come_back_from_json(cfg):
    made = cfg.edited(["preference.beta=0.7"])
    content = json.loads(config.to_json(made))
    assert config.from_json(preference.Config, content) == made


def _columns_of(cfg, workdir):
    preference.run(cfg, workdir)
    return metrics.read_metrics(workdir / "run" / metrics.METRICS_NAME)


def _assert_same(found, wanted):
    for name in ("loss", "margin", "chosen_reward", "heldout_loss", "heldout_margin", "grad_rms"):
        one, other = found[name].values_N, wanted[name].values_N
        # Rewards are beta times sums of 8 differences of log-probabilities of about 5.
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=5e-6, err_msg=name)


@pytest.mark.parametrize("loss", ["dpo", "ipo"])
@pytest.mark.long
def test_a_cached_reference_gives_the_losses_of_a_computed_one(cfg, tmp_path, loss):
    cfg = cfg.edited(["train.num_steps=4", f"preference.loss={loss}"])
    cached = cfg.edited(["preference.reference=cached"])
    computed = _columns_of(cfg, tmp_path / "computed")
    _assert_same(_columns_of(cached, tmp_path / "cached"), computed)
    assert abs(computed["margin"].values_N[-1]) > 1e-3  # else a reference of zeros would do


def test_a_reference_of_other_numbers_has_another_file(tmp_path):
    """The same weights say something else in FP8."""
    corpus = types.SimpleNamespace(fingerprint="text")
    mesh = jax.make_mesh((1,), ("data",))

    def path(**execution):
        cfg = types.SimpleNamespace(model=None, execution=config.ExecutionConfig(**execution))
        built = types.SimpleNamespace(steps=types.SimpleNamespace(cfg=cfg), mesh=mesh)
        return reference._path(corpus, built, {"w": np.ones(3, np.float32)}, tmp_path)

    assert path() == path(remat="full")
    assert len({path(), path(precision="fp8"), path(compute_dtype="float32")}) == 3


@pytest.mark.long
def test_a_run_that_goes_on_reads_the_reference_from_its_file(cfg, tmp_path, monkeypatch):
    cfg = cfg.edited(["train.num_steps=4", "train.checkpoint_interval_steps=2"])
    cfg = cfg.edited(["preference.reference=cached"])
    whole = _columns_of(cfg, tmp_path / "whole")
    (path,) = (tmp_path / "cache").glob("reference-*.npz")
    monkeypatch.setattr(reference, "_one_pass", lambda *args: pytest.fail("made again"))
    _columns_of(cfg.edited(["train.num_steps=2"]), tmp_path / "parts")
    more = cfg.edited(["train.num_steps=4", "resume.allow=train.num_steps"])
    parts = _columns_of(more, tmp_path / "parts")
    np.testing.assert_array_equal(parts["loss"].values_N, whole["loss"].values_N)
    monkeypatch.undo()
    # Other first weights are another reference.
    _columns_of(cfg.edited(["train.seed=1", "train.num_steps=1"]), tmp_path / "other")
    assert len(list((tmp_path / "cache").glob("reference-*.npz"))) == 2
    # What is damaged is made again.
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    again = _columns_of(cfg, tmp_path / "again")
    np.testing.assert_array_equal(again["loss"].values_N, whole["loss"].values_N)


def test_label_smoothing_of_ipo_is_refused(cfg):
    with pytest.raises(config.ConfigError, match=r"label_smoothing must be 0 with .*ipo"):
        cfg.edited(["preference.loss=ipo", "preference.label_smoothing=0.1"])
