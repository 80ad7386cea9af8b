"""Weights straight from files onto devices, the same from either kind of folder."""

import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from kanana_jax import convert, generate
from kanana_jax.checkpoint import CheckpointError

sys.path.append(str(Path(__file__).parents[1] / "checkpoint"))

import hf_folder
import parity_cases

FIELDS = parity_cases.CASES["like_deepseek"] | {"vocab_size": 258, "eos_token_id": 5}


@pytest.fixture(scope="module")
def hf_directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "hf"
    return hf_folder.write(folder, FIELDS, hf_folder.tensors(FIELDS))


def test_a_hugging_face_folder_gives_what_its_conversion_gives(hf_directory, tmp_path):
    convert.main([f"--from-hf={hf_directory}", f"--to={tmp_path / 'native'}"])
    direct = generate.load(hf_directory, "float32")
    converted = generate.load(tmp_path / "native", "float32")
    assert direct.cfg == converted.cfg
    assert direct.eos_ids == converted.eos_ids == (5,)
    jax.tree.map(np.testing.assert_array_equal, direct.weights, converted.weights)


def _drawn(loaded):
    engine = loaded.engine(num_rows=1, length=32)
    request = generate.Request(
        prompt=[1, 2, 3], max_tokens=12, sampling=generate.Sampling(temperature=0)
    )
    return [piece.token for piece in engine.run([request])]


@pytest.mark.slow
def test_two_devices_draw_what_one_does(hf_directory):
    split = generate.load(hf_directory, "float32", tensor_parallel=2)
    w_down = split.weights.layers[1].block["mlp"]["w_down"]
    assert w_down.sharding.shard_shape(w_down.shape) == (8, 12, 32)
    assert _drawn(split) == _drawn(generate.load(hf_directory, "float32"))


def test_an_end_named_by_the_generation_config_counts(hf_directory, tmp_path):
    shutil.copytree(hf_directory, tmp_path / "hf")
    (tmp_path / "hf" / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    (tmp_path / "hf" / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    loaded = generate.load(tmp_path / "hf")
    assert (loaded.bos_ids, loaded.eos_ids) == ((), (7, 9))


def test_a_large_vocabulary_without_a_tokenizer_is_refused(tmp_path):
    fields = FIELDS | {"vocab_size": 600}
    folder = hf_folder.write(tmp_path / "hf", fields, hf_folder.tensors(fields))
    with pytest.raises(CheckpointError, match=r"600 tokens are not bytes"):
        generate.load(folder)


def test_a_damaged_shard_is_found_before_anything_is_loaded(hf_directory, tmp_path):
    shutil.copytree(hf_directory, tmp_path / "hf")
    shard = next((tmp_path / "hf").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        generate.load(tmp_path / "hf")
