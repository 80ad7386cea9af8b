"""What the config.json of a model folder may say."""

import dataclasses
import json

import pytest

from kanana_jax.checkpoint import CheckpointError
from kanana_jax.model import presets
from kanana_jax.weights import native

MODEL = dataclasses.asdict(presets.deepseek_v3())


def test_a_description_is_read_as_it_was_written(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model": MODEL, "hugging_face": {"a": 1}}))
    assert native.read_description(tmp_path) == (presets.deepseek_v3(), {"a": 1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "describes no model"),
        ({"model": None, "hugging_face": {}}, "describes no model"),
        ({"model": {"a": 1}, "hugging_face": {}}, "describes no model"),
        ({"model": "text", "hugging_face": {}}, "describes no model"),
        ({"model": MODEL | {"more": 1}, "hugging_face": {}}, "unexpected keyword argument 'more'"),
        ({"model": MODEL | {"num_heads": 0}, "hugging_face": {}}, "model.num_heads must lie in"),
        ({"model": MODEL | {"num_heads": "8"}, "hugging_face": {}}, "num_heads must be of type"),
        ({"model": MODEL | {"rope_theta": float("nan")}, "hugging_face": {}}, "got nan"),
        ({"model": MODEL | {"yarn": 1}, "hugging_face": {}}, "describes no model"),
        ({"model": MODEL | {"yarn": {}}, "hugging_face": {}}, "describes no model"),
        ({"model": MODEL}, "is of no model folder"),
        ({"model": MODEL, "hugging_face": None}, "is of no model folder"),
    ],
)
def test_a_description_of_no_model_is_one_line(content, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message) as caught:
        native.read_description(tmp_path)
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)
