"""The newest checkpoint of a run becomes a model folder, whatever the layout of its state."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kanana_jax import model
from kanana_jax.checkpoint import CheckpointError, Checkpoints
from kanana_jax.model import presets
from kanana_jax.weights import native, run_folder

CFG = dataclasses.replace(presets.tiny(258), num_layers=2, hidden_size=16, intermediate_size=16)
EXPERIMENT = {
    "name": "a",
    "model": dataclasses.asdict(CFG),
    "execution": {"compute_dtype": "float32"},
    "data": {"tokenizer": "bytes"},
    "train": {"init_from": "", "checkpoint_dir": ""},
    "arms": [],
}


def random_weights():
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: model.init(CFG, jax.random.key(0)))
    return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape, np.float32)), shapes)


def state(weights):
    return {"step": jnp.int32(3), "weights": weights}


def former_state(weights):
    """Before weights were a group: parameters and bias beside each other."""
    return {"step": jnp.int32(3), "params": weights.params, **weights.buffers}


def run_of(workdir, content):
    """A run's folder below `workdir` with these checkpoints, by step."""
    run = workdir / "run"
    run.mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps(EXPERIMENT))
    where = run_folder.places.place_of("", EXPERIMENT["name"], run)
    with Checkpoints(where, keep=2, report=lambda *event: pytest.fail(str(event))) as checkpoints:
        for step, saved in content.items():
            checkpoints.save(step, saved, {})
    return run


@pytest.mark.parametrize("layout", [state, former_state])
def test_the_newest_weights_are_those_of_the_folder(layout, tmp_path):
    weights = random_weights()
    older = jax.tree.map(jnp.zeros_like, weights)
    run = run_of(tmp_path / "work", {3: layout(older), 5: layout(weights)})
    run_folder.import_run(run, tmp_path / "native")
    assert native.read_description(tmp_path / "native") == native.Description(CFG, {}, "float32")
    restored = native.restore(tmp_path / "native", native.abstract(CFG, jnp.float32))
    jax.tree.map(np.testing.assert_array_equal, restored, weights)


def test_a_checkpoint_without_the_weights_is_one_line(tmp_path):
    run = run_of(tmp_path / "work", {3: {"step": jnp.int32(3)}})
    with pytest.raises(CheckpointError, match="cannot be used") as caught:
        run_folder.import_run(run, tmp_path / "native")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "native").exists()
