"""From a Hugging Face folder through training and back to one, and to text."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from kanana_jax import config, convert, parallel, train
from kanana_jax.data import tokenizer
from kanana_jax.generate import __main__ as generate_command
from kanana_jax.train import initial, step
from kanana_jax.weights import hf_config, native


@pytest.fixture
def imported(exp, tmp_path):
    """A model folder with the shape of `exp`, in bfloat16, with a BPE tokenizer."""
    bpe = tokenizer.train_bpe([b"muon clip polar express latent expert"] * 9, 280)
    cfg = dataclasses.replace(exp.model, vocab_size=bpe.vocab_size)
    rng = np.random.default_rng(0)

    def one(x):
        values = rng.normal(0, 0.1, x.shape).astype(x.dtype)
        return native.streamed(values)

    weights = jax.tree.map(one, native.abstract(cfg, jax.numpy.bfloat16))
    with native.new_directory(tmp_path / "imported") as folder:
        extra = {"max_position_embeddings": 64, "eos_token_id": bpe.eos_id}
        native.write(folder, native.Description(cfg, extra), weights)
        (folder / "tokenizer.json").write_text(bpe.json)
    return tmp_path / "imported"


def _continued(exp, imported):
    return config.edit(
        exp,
        [
            f"train.init_from={imported}",
            f"data.tokenizer={imported / 'tokenizer.json'}",
            "train.num_steps=2",
            "mesh.data=4",
            "mesh.fsdp=2",
            "model.hidden_size=64",  # what the folder says counts
        ],
    )


@pytest.mark.slow
def test_training_starts_from_the_folder_and_its_run_can_be_exported(
    exp, imported, tmp_path, capsys
):
    train.run(_continued(exp, imported), tmp_path / "run")
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["model"]["hidden_size"] == exp.model.hidden_size
    convert.main([f"--from-run={tmp_path / 'run' / 'run'}", f"--to={tmp_path / 'trained'}"])
    cfg, extra = native.read_description(tmp_path / "trained")
    like = native.abstract(cfg, jax.numpy.float32)
    before, after = (native.restore(path, like) for path in (imported, tmp_path / "trained"))
    moved = jax.tree.map(lambda x, y: float(abs(x - y).max()), before["params"], after["params"])
    # Two steps at rate 0.01 move no number further than a few hundredths.
    assert 0 < max(jax.tree.leaves(moved)) < 0.2
    assert extra["max_position_embeddings"] == 64
    convert.main([f"--from={tmp_path / 'trained'}", f"--to-hf={tmp_path / 'hf'}"])
    assert (tmp_path / "hf" / "tokenizer.json").exists()
    capsys.readouterr()
    generate_command.main(
        [f"--checkpoint={tmp_path / 'trained'}", "--prompt=muon", "--max-tokens=4"]
    )
    assert capsys.readouterr().out.endswith("\n")


def test_the_first_state_is_the_folder_in_float32_on_the_mesh(exp, imported):
    continued = initial.with_shape(_continued(exp, imported))
    mesh = parallel.make_mesh(config.MeshConfig(data=1, fsdp=2), jax.devices()[:2])
    state = step.build(continued, mesh).init(0)
    like = native.abstract(continued.model, jax.numpy.float32)
    want = native.restore(imported, like)
    jax.tree.map(np.testing.assert_array_equal, state.params, want["params"])
    np.testing.assert_array_equal(state.router_bias, want["router_bias"])
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {np.dtype(np.float32)}
    assert len(state.params["embed"].sharding.device_set) == 2


def test_how_a_model_is_computed_and_its_context_stay_the_experiments(exp, imported):
    yarn = config.YarnConfig(factor=4.0, original_max_positions=64)
    other = {
        "compute_dtype": "float32",
        "remat": "full",
        "scan_layers": False,
        "attention_implementation": "reference",
        "grouped_matmul_implementation": "xla",
        "expert_exchange": "gather",
        "deterministic": True,
    }
    model = dataclasses.replace(exp.model, **other, yarn=yarn, num_heads=2)
    continued = dataclasses.replace(_continued(exp, imported), model=model)
    found = initial.with_shape(continued).model
    assert {name: getattr(found, name) for name in other} == other
    assert (found.yarn, found.num_heads) == (yarn, exp.model.num_heads)
    plain = dataclasses.replace(continued, model=exp.model)
    assert initial.with_shape(plain).model.yarn is None


def test_every_field_of_a_model_is_of_it_or_of_its_computing():
    """A new one is read from Hugging Face's config.json, or declared about computing."""
    fields = dataclasses.fields(config.ModelConfig)
    computing = {field.name for field in fields if field.metadata == config.COMPUTING}
    of_model = {*hf_config._FIELDS, "rope_theta", "init_std", "yarn", "zero_centered_gamma"}
    assert {field.name for field in fields} - of_model == computing


@pytest.mark.parametrize("name", ["bytes", "other.json"])
def test_another_tokenizer_is_refused_before_anything_is_written(
    exp, imported, name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.json").write_text(tokenizer.train_bpe([b"other text"], 270).json)
    continued = config.edit(_continued(exp, imported), [f"data.tokenizer={name}"])
    with pytest.raises(config.ConfigError, match=r"set data\.tokenizer="):
        train.run(continued, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_folder_is_refused_before_anything_is_written(exp, tmp_path):
    with pytest.raises(train.CheckpointError, match="does not exist"):
        train.run(config.edit(exp, ["train.init_from=/no/such"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
