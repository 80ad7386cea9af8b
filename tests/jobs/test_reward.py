"""Training of a reward model, from a file to the report."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny_jobs

from kanana_jax import config
from kanana_jax.jobs import initial, reward
from kanana_jax.report import metrics, results
from kanana_jax.weights import native, run_folder

STILL = {"z_loss_weight": 0.0, "balance_loss_weight": 0.0, "router_bias_rate": 0.0}


@pytest.fixture
def cfg(tmp_path) -> reward.Config:
    """Pairs in which the answer "yes yes" is always preferred."""
    path = tmp_path / "pairs.jsonl"
    with path.open("w") as file:
        for number in range(60):
            pair = {"prompt": f"{number}?", "chosen": "yes yes", "rejected": "no"}
            file.write(json.dumps(pair) + "\n")
    data = config.DataConfig(
        paths=(str(path),), seq_len=128, batch_size=8, heldout_fraction=0.2,
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    base = tiny_jobs.pretraining(path, data=data, mesh=config.MeshConfig())
    base = base.edited(["optimizer.name=adamw"])  # compiles faster
    names = [field.name for field in dataclasses.fields(config.TrainingConfig)]
    given = {name: getattr(base, name) for name in names}
    given["train"] = dataclasses.replace(base.train, **STILL)
    given["model"] = dataclasses.replace(base.model, scalar_head=True)
    return reward.Config(**given)


@pytest.mark.long
def test_a_model_learns_rewards_from_the_file_to_the_report_and_to_a_folder(cfg, tmp_path):
    cfg = cfg.edited(["train.num_steps=16"])
    reward.run(cfg, tmp_path / "work")
    run = tmp_path / "work" / "run"
    columns = metrics.read_metrics(run / metrics.METRICS_NAME)
    # All rewards begin at 0.
    assert columns["loss"].values_N[0] == pytest.approx(np.log(2.0), abs=1e-6)
    assert columns["chosen_reward"].values_N[0] == 0.0 == columns["rejected_reward"].values_N[0]
    assert columns["margin"].values_N[-1] > 0.1
    assert results.load(run).values["heldout_accuracy"] == 1.0
    assert "router bias frozen" in (tmp_path / "work" / "report.html").read_text()
    run_folder.import_run(run, tmp_path / "model")
    shape = native.read_description(tmp_path / "model").cfg
    kept = native.restore(tmp_path / "model", native.abstract(shape, jax.numpy.float32))
    assert shape.scalar_head and np.abs(kept.params["scalar_head"]).max() > 0
    assert not np.any(kept.buffers["router_bias"])


def test_a_model_folder_without_the_head_starts_it_at_zero(cfg, tmp_path):
    cfg = cfg.with_vocab(258)
    plain = cfg.edited(["model.vocab_size=258"]).model
    built = tiny_jobs.build(cfg_of_text(cfg))
    weights = built.steps.init(3).weights
    shape = dataclasses.replace(plain, scalar_head=False)
    with native.new_directory(tmp_path / "plain") as folder:
        tree = native.stored(weights)
        native.write(folder, native.Description(shape, {}), jax.tree.map(native.streamed, tree))
    like = native.abstract(plain, jax.numpy.float32)
    found = initial.restore(str(tmp_path / "plain"), like)
    assert found.params["scalar_head"].shape == (plain.hidden_size,)
    assert not np.any(found.params["scalar_head"])
    np.testing.assert_array_equal(found.params["embed"], weights.params["embed"])
    cfg = cfg.edited([f"train.init_from={tmp_path / 'plain'}"])
    assert initial.with_shape(cfg).model.scalar_head


def cfg_of_text(cfg):
    """A pretraining job of that shape, without the scalar head."""
    model = dataclasses.replace(cfg.model, scalar_head=False)
    return tiny_jobs.pretraining("text", model=model, mesh=config.MeshConfig())


def test_a_model_without_a_scalar_head_is_refused(cfg):
    with pytest.raises(config.ConfigError, match=r"model.scalar_head must be true in reward"):
        cfg.edited(["model.scalar_head=false"])


@pytest.mark.parametrize("name", STILL)
def test_what_moves_the_model_beside_the_loss_is_refused(cfg, name):
    with pytest.raises(config.ConfigError, match=f"train.{name} must be 0 in reward training"):
        cfg.edited([f"train.{name}=0.001"])
