"""What the config.json of a model folder may say."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from kanana_jax.checkpoint import CheckpointError
from kanana_jax.model import presets
from kanana_jax.weights import native

MODEL = dataclasses.asdict(presets.deepseek_v3())


def test_a_description_is_read_as_it_was_written(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model": MODEL, "hugging_face": {"a": 1}}))
    found = native.read_description(tmp_path)
    assert found == native.Description(presets.deepseek_v3(), {"a": 1}, "bfloat16")


# Beside the model's shape in folders written before there was a group "execution".
FORMER = {
    "compute_dtype": "float32",
    "remat": "none",
    "scan_layers": True,
    "attention_implementation": "auto",
    "grouped_matmul_implementation": "auto",
    "expert_exchange": "auto",
    "deterministic": False,
}


def test_a_folder_whose_model_says_how_it_is_computed_is_read(tmp_path):
    content = {"model": MODEL | FORMER, "hugging_face": {}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    found = native.read_description(tmp_path)
    assert found == native.Description(presets.deepseek_v3(), {}, "float32")


def test_a_description_says_what_the_model_was_trained_in(tmp_path):
    what = native.Description(presets.tiny(4), {}, "float32")
    weights = native.stored(native.abstract(what.cfg, np.float32))
    zeros = jax.tree.map(lambda x: native.streamed(np.zeros(x.shape, x.dtype)), weights)
    native.write(tmp_path / "model", what, zeros)
    assert native.read_description(tmp_path / "model") == what


def test_the_dtype_of_a_run_is_read_from_its_execution():
    content = {"model": MODEL, "execution": {"compute_dtype": "float32"}}
    _, compute_dtype = native.model_config(content, Path("config.json"))
    assert compute_dtype == "float32"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "describes no model"),
        ({"model": None, "hugging_face": {}}, "describes no model"),
        ({"model": {"a": 1}, "hugging_face": {}}, "describes no model"),
        ({"model": "text", "hugging_face": {}}, "describes no model"),
        ({"model": MODEL | {"more": 1}, "hugging_face": {}}, "ModelConfig has no more; it has"),
        ({"model": MODEL | {"num_heads": 0}, "hugging_face": {}}, "model.num_heads must lie in"),
        ({"model": MODEL | {"num_heads": "8"}, "hugging_face": {}}, "num_heads must be of type"),
        ({"model": MODEL | {"rope_theta": float("nan")}, "hugging_face": {}}, "got nan"),
        ({"model": MODEL | {"yarn": 1}, "hugging_face": {}}, "describes no model"),
        ({"model": MODEL | {"yarn": {}}, "hugging_face": {}}, "describes no model"),
        ({"model": MODEL}, "is of no model folder"),
        ({"model": MODEL, "hugging_face": None}, "is of no model folder"),
        ({"model": MODEL | {"compute_dtype": "int8"}}, "compute_dtype must be one of float32"),
        ({"model": MODEL, "compute_dtype": 7}, "compute_dtype must be one of float32"),
    ],
)
def test_a_description_of_no_model_is_one_line(content, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message) as caught:
        native.read_description(tmp_path)
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)
