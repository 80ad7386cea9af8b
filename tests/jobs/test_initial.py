"""From a Hugging Face folder through training and back to one, and to text."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny_jobs

from kanana_jax import checkpoint, config, convert, parallel
from kanana_jax.data import tokenizer
from kanana_jax.generate import __main__ as generate_command
from kanana_jax.jobs import initial, pretrain, sweep
from kanana_jax.train import step_functions
from kanana_jax.weights import hf_architectures, native


@pytest.fixture
def imported(cfg, tmp_path):
    """A model folder with the shape of `cfg`, in bfloat16, with a BPE tokenizer."""
    bpe = tokenizer.train_bpe([b"muon clip polar express latent expert"] * 9, 280)
    shape = dataclasses.replace(cfg.model, vocab_size=bpe.vocab_size)
    rng = np.random.default_rng(0)

    def one(x):
        values = rng.normal(0, 0.1, x.shape).astype(x.dtype)
        return native.streamed(values)

    weights = jax.tree.map(one, native.stored(native.abstract(shape, jax.numpy.bfloat16)))
    with native.new_directory(tmp_path / "imported") as folder:
        extra = {"max_position_embeddings": 64, "eos_token_id": bpe.eos_id}
        native.write(folder, native.Description(shape, extra), weights)
        (folder / "tokenizer.json").write_text(bpe.json)
    return tmp_path / "imported"


def _continued(cfg, imported):
    return cfg.edited(
        [
            f"train.init_from={imported}",
            f"data.tokenizer={imported / 'tokenizer.json'}",
            "train.num_steps=2",
            "mesh.data=4",
            "mesh.fsdp=2",
            "model.hidden_size=64",  # what the folder says counts
        ],
    )


@pytest.mark.long
def test_training_starts_from_the_folder_and_its_run_can_be_exported(
    cfg, imported, tmp_path, capsys
):
    pretrain.run(_continued(cfg, imported), tmp_path / "run")
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["model"]["hidden_size"] == cfg.model.hidden_size
    convert.main([f"--from-run={tmp_path / 'run' / 'run'}", f"--to={tmp_path / 'trained'}"])
    shape, extra, _ = native.read_description(tmp_path / "trained")
    like = native.abstract(shape, jax.numpy.float32)
    before, after = (native.restore(path, like) for path in (imported, tmp_path / "trained"))
    moved = jax.tree.map(lambda x, y: float(abs(x - y).max()), before.params, after.params)
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


def test_the_first_state_is_the_folder_in_float32_on_the_mesh(cfg, imported):
    continued = initial.with_shape(_continued(cfg, imported))
    mesh = parallel.make_mesh(config.MeshConfig(data=1, fsdp=2), jax.devices()[:2])
    steps = step_functions.build(tiny_jobs.step_config(continued, continued.model.vocab_size), mesh)
    state = steps.start(initial.restore(continued.train.init_from, steps.like.weights), 0)
    want = native.restore(imported, native.abstract(continued.model, jax.numpy.float32))
    jax.tree.map(np.testing.assert_array_equal, state.weights, want)
    assert {x.dtype for x in jax.tree.leaves(state.weights.params)} == {np.dtype(np.float32)}
    assert len(state.weights.params["embed"].sharding.device_set) == 2
    assert int(state.step) == 0


def test_how_a_model_is_computed_and_its_context_stay_the_experiments(cfg, imported):
    yarn = config.YarnConfig(factor=4.0, original_max_positions=64)
    execution = config.ExecutionConfig(remat="full", scan_layers=False, deterministic=True)
    shape = dataclasses.replace(cfg.model, yarn=yarn, num_heads=2)
    continued = _continued(cfg, imported)
    other = dataclasses.replace(continued, model=shape, execution=execution)
    found = initial.with_shape(other)
    assert found.execution == execution
    assert (found.model.yarn, found.model.num_heads) == (yarn, cfg.model.num_heads)
    plain = dataclasses.replace(continued, model=cfg.model)
    assert initial.with_shape(plain).model.yarn is None
    assert initial.with_shape(plain).model.swiglu_clamp is None
    clamped = dataclasses.replace(cfg.model, swiglu_clamp=10.0)
    found = initial.with_shape(dataclasses.replace(continued, model=clamped))
    assert found.model.swiglu_clamp == 10.0


def test_every_field_of_a_model_is_read_from_a_folder_or_of_its_training():
    """A new field is read from Hugging Face's config.json, or listed here as not read."""
    fields = {field.name for field in dataclasses.fields(config.ModelConfig)}
    not_read = {"rope_theta", "init_std", "yarn", "llama3_rope", "zero_centered_gamma"}
    not_read |= {"norm_gain", "swiglu_clamp"}
    not_read |= {"vision", "audio"}  # whose folders have fields of their own, or are our own alone
    not_read |= {"scalar_head", "qk_norm"}  # it is the architecture that says so
    read = {name for known in hf_architectures.ALL for name in known.names}
    assert fields == read | not_read


def test_an_arm_that_the_folder_would_override_is_refused(cfg, imported, tmp_path):
    """Both ways of naming a shape: an arm's edits, and an axis."""
    base = _continued(cfg, imported)
    arms = (sweep.Arm(name="wide", edits=("model.hidden_size=64",)),)
    axes = (sweep.Axis("model.kv_lora_rank", (8, 16)),)
    for made, message in (
        (sweep.Sweep(base=base, arms=arms), "arm 'wide' sets model.hidden_size to 64, but"),
        (sweep.Sweep(base=base, axes=axes), "sets model.kv_lora_rank to 8, but .* has 16"),
    ):
        with pytest.raises(config.ConfigError, match=message):
            sweep.plan(made, tmp_path)


@pytest.mark.parametrize("name", ["bytes", "other.json"])
def test_another_tokenizer_is_refused_before_anything_is_written(
    cfg, imported, name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.json").write_text(tokenizer.train_bpe([b"other text"], 270).json)
    continued = _continued(cfg, imported).edited([f"data.tokenizer={name}"])
    with pytest.raises(config.ConfigError, match=r"set data\.tokenizer="):
        pretrain.run(continued, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_folder_is_refused_before_anything_is_written(cfg, tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match="does not exist"):
        pretrain.run(cfg.edited(["train.init_from=/no/such"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
