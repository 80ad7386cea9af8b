"""A small model with random weights, as a model folder and as the checkpoints of a run."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kanana_jax import model
from kanana_jax.checkpoint import Checkpoints, places
from kanana_jax.model import presets
from kanana_jax.weights import native

CFG = dataclasses.replace(presets.tiny(258), num_layers=2, hidden_size=16, intermediate_size=16)
EXPERIMENT = {
    "name": "a",
    "model": dataclasses.asdict(CFG),
    "execution": {"compute_dtype": "float32"},
    "data": {"tokenizer": "bytes"},
    "train": {"init_from": "", "checkpoint_dir": ""},
    "arms": [],
}


def random_weights(seed: int = 0, cfg=CFG) -> model.Weights:
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: model.init(cfg, jax.random.key(0)))
    return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape, np.float32)), shapes)


def folder(path: Path, weights: model.Weights, cfg=CFG, **texts: str) -> Path:
    """A model folder with files of a tokenizer, whose names lack ".json"."""
    with native.new_directory(path) as made:
        parts = jax.tree.map(native.streamed, native.stored(weights))
        native.write(made, native.Description(cfg, {}, "float32"), parts)
        for name, text in texts.items():
            (made / f"{name}.json").write_text(text)
    return path


def restored(path: Path) -> model.Weights:
    return native.restore(path, native.abstract(CFG, jnp.float32))


def run_of(workdir: Path, content: dict[int, object], notes=None, **settings) -> Path:
    """A run's folder below `workdir` with these checkpoints, by step."""
    run = workdir / "run"
    run.mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps(EXPERIMENT | settings))
    where = places.place_of("", EXPERIMENT["name"], run)
    keep = len(content)
    with Checkpoints(where, keep=keep, report=lambda *event: pytest.fail(str(event))) as saving:
        for step, saved in content.items():
            saving.save(step, saved, notes or {})
    return run
