"""Jobs that train low-rank adapters, from a model folder to another one."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tiny_jobs

from kanana_jax import config, convert
from kanana_jax.jobs import distillation, preference, pretrain, reward, rl
from kanana_jax.report import metrics
from kanana_jax.weights import native

ADAPTED = ["lora.rank=2", "optimizer.name=adamw", "optimizer.lr=0.02", "train.router_bias_rate=0"]


@pytest.fixture(scope="module")
def base(text_file, tmp_path_factory):
    """A model of bytes."""
    shape = dataclasses.replace(tiny_jobs.pretraining(text_file).model, vocab_size=258)
    return tiny_jobs.write_model(tmp_path_factory.mktemp("base") / "model", shape)


@pytest.fixture
def cfg(text_file, base, tmp_path):
    made = tiny_jobs.pretraining(text_file, mesh=config.MeshConfig())
    edits = ["train.num_steps=4", "train.checkpoint_interval_steps=2"]
    edits += [f"train.init_from={base}", f"data.cache_dir={tmp_path / 'cache'}"]
    return made.edited([*edits, *ADAPTED])


def _columns(workdir):
    return metrics.read_metrics(workdir / "run" / metrics.METRICS_NAME)


def _kill_in(step, monkeypatch, run):
    """Ends `run` as it asks for the batch of a step, counted from 0."""
    real = pretrain.TextSource.batch

    def batch(source, number, weights):
        if number == step:
            raise tiny_jobs.Killed
        return real(source, number, weights)

    with monkeypatch.context() as patch, pytest.raises(tiny_jobs.Killed):
        patch.setattr(pretrain.TextSource, "batch", batch)
        run()


@pytest.mark.long
def test_adapters_are_all_that_is_kept_and_the_merged_model_measures_as_they_did(
    cfg, base, tmp_path, monkeypatch, capsys
):
    cfg = cfg.edited(["train.average.every_tokens=256"])
    pretrain.run(cfg, tmp_path / "whole")
    assert "parameters are trained beside" in capsys.readouterr().err
    whole = _columns(tmp_path / "whole")
    folder = tmp_path / "whole" / "run"
    leaves = json.loads((folder / "checkpoints" / "4" / "manifest.json").read_text())["leaves"]
    of_weights = [path for path in leaves if path.startswith("weights/params")]
    assert of_weights and all(path.endswith(("/a", "/b")) for path in of_weights)
    sizes = {path: np.prod(entry["shape"]) for path, entry in leaves.items()}
    shape = native.read_description(base).cfg
    assert max(sizes.values()) < shape.vocab_size * shape.hidden_size / 2
    counted = json.loads((folder / "run.json").read_text())["chosen"]["trained_parameters"]
    assert counted == sum(sizes[path] for path in of_weights)

    # A killed run goes on with the same model, and with no other.
    cut = tmp_path / "cut"
    _kill_in(3, monkeypatch, lambda: pretrain.run(cfg, cut))
    shutil.move(base, tmp_path / "kept")
    tiny_jobs.write_model(base, shape, seed=1)
    with pytest.raises(config.ConfigError, match=r"checkpoint 2 holds adapters of the model"):
        pretrain.run(cfg, cut)
    shutil.rmtree(base)
    shutil.move(tmp_path / "kept", base)
    pretrain.run(cfg, cut)
    for name in ("loss", "grad_rms", "heldout_bpb", "heldout_bpb_average"):
        found, wanted = _columns(cut)[name].values_N, whole[name].values_N
        np.testing.assert_array_equal(found, wanted, err_msg=name)

    for flags, name in (([], "heldout_bpb"), (["--average"], "heldout_bpb_average")):
        model = tmp_path / name
        convert.main([f"--from-run={folder}", f"--to={model}", *flags])
        plain = ["lora.rank=0", "train.num_steps=0", "train.average.every_tokens=0"]
        measured = cfg.edited([*plain, f"train.init_from={model}"])
        pretrain.run(measured, tmp_path / f"{name}-measured")
        found = _columns(tmp_path / f"{name}-measured")["heldout_bpb"].values_N[-1]
        np.testing.assert_allclose(found, whole[name].values_N[-1], rtol=1e-5, err_msg=name)
    losses = whole["loss"].values_N
    assert losses[-1] < losses[0] - 0.3


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ('train.init_from=""', "lora.rank needs a model that adapters are added to"),
        ("optimizer.name=muonclip", "optimizer.name must be one of adamw, muon, normuon, adamuon"),
        ("lora.dense_rank=4", "lora.dense_rank must be 0 or rank for a model without"),
    ],
)
def test_adapters_that_cannot_be_trained_are_refused_before_anything_is_written(
    cfg, edit, message, tmp_path
):
    with pytest.raises(config.ConfigError, match=message):
        pretrain.run(cfg.edited([edit]), tmp_path / "work")
    assert not (tmp_path / "work").exists() or not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize("edit", ["train.router_bias_rate=0.1", "train.router_balance=quantile"])
def test_the_routers_bias_stays_with_the_frozen_model(cfg, edit):
    with pytest.raises(config.ConfigError, match=r"router_bias_rate must be 0 with lora\.rank"):
        cfg.edited([edit])


def _fields(made):
    names = [field.name for field in dataclasses.fields(config.TrainingConfig)]
    return {name: getattr(made, name) for name in names}


_STILL = {"z_loss_weight": 0.0, "balance_loss_weight": 0.0}


def _pairs(cfg, tmp_path):
    path = tmp_path / "pairs.jsonl"
    pair = {"chosen": "yes yes", "rejected": "no"}
    lines = (json.dumps({"prompt": f"{number}?", **pair}) + "\n" for number in range(60))
    path.write_text("".join(lines))
    data = dataclasses.replace(cfg.data, paths=(str(path),), seq_len=128, heldout_fraction=0.2)
    return _fields(cfg) | {"data": data, "train": dataclasses.replace(cfg.train, **_STILL)}


def _preference(cfg, tmp_path):
    own = preference.PreferenceConfig(beta=0.5)
    return preference, preference.Config(**_pairs(cfg, tmp_path), preference=own)


def _reward(cfg, tmp_path):
    fields = _pairs(cfg, tmp_path)
    return reward, reward.Config(
        **fields | {"model": dataclasses.replace(cfg.model, scalar_head=True)}
    )


def _distillation(cfg, tmp_path):
    """The teacher is the student as it was: the frozen model."""
    train = dataclasses.replace(cfg.train, z_loss_weight=0.0)
    own = config.DistillConfig(ce_weight=1.0)
    return distillation, distillation.Config(**_fields(cfg) | {"train": train}, distill=own)


def _rl(cfg, tmp_path):
    family = "chain_sum@3"
    path = tiny_jobs.write_solved(tmp_path / "conversations.jsonl", family)
    rollouts = config.RolloutConfig(
        families=(family,), allow=("chain_sum",), languages=("en",), num_prompts=2,
        num_samples=4, max_tokens=6, max_turns=1, num_rows=4,
    )  # fmt: skip
    own = config.RLConfig(rollouts=rollouts, reward="random", measures_routing=False)
    data = dataclasses.replace(
        cfg.data, paths=(str(path),), seq_len=64, batch_size=8, heldout_fraction=0.2
    )
    train = dataclasses.replace(cfg.train, **_STILL)
    return rl, rl.Config(**_fields(cfg) | {"data": data, "train": train}, rl=own)


@pytest.mark.long
@pytest.mark.parametrize("make", [_preference, _reward, _distillation, _rl])
def test_every_kind_of_objective_trains_adapters(make, cfg, tmp_path):
    job, made = make(cfg, tmp_path)
    job.run(made.edited(["train.num_steps=2"]), tmp_path / "work")
    columns = _columns(tmp_path / "work")
    assert np.all(np.isfinite(columns["loss"].values_N))
    assert np.all(columns["update_rms"].values_N > 0)
    convert.main([f"--from-run={tmp_path / 'work' / 'run'}", f"--to={tmp_path / 'model'}"])
    assert native.read_description(tmp_path / "model").cfg.scalar_head == (job is reward)
