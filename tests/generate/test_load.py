"""Weights straight from files onto devices, the same from either kind of folder."""

import dataclasses
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers
from tokenizers import processors

from kanana_jax import convert, generate
from kanana_jax.checkpoint import CheckpointError
from kanana_jax.data import tokenizer
from kanana_jax.evaluate import scoring

sys.path.append(str(Path(__file__).parents[1] / "weights"))

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


@pytest.mark.long
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


def _bpe(template):
    library = tokenizers.Tokenizer.from_str(tokenizer.train_bpe([b"ab"], 258).json)
    tokens = [(name, library.token_to_id(name)) for name in (tokenizer.BOS, tokenizer.EOS)]
    library.post_processor = processors.TemplateProcessing(single=template, special_tokens=tokens)
    return library


def test_a_prompt_is_what_tokenizer_json_says_and_a_conversation_what_its_template_says(
    hf_directory, tmp_path
):
    shutil.copytree(hf_directory, tmp_path / "hf")
    library = _bpe(f"{tokenizer.BOS} $A {tokenizer.EOS}")
    bos, eos = map(library.token_to_id, (tokenizer.BOS, tokenizer.EOS))
    (tmp_path / "hf" / "tokenizer.json").write_text(library.to_str(), encoding="utf-8-sig")
    template = "{{ bos_token }}{{ messages[0].content }}{{ mark }}"
    (tmp_path / "hf" / "chat_template.jinja").write_text(template)
    (tmp_path / "hf" / "special_tokens_map.json").write_text(f'{{"bos_token": "{tokenizer.BOS}"}}')
    loaded = generate.load(tmp_path / "hf")
    assert loaded.prompt_ids("ab") == library.encode("ab").ids == [bos, 66, 67, eos]
    # One bos: nothing is put around what the template writes.
    assert loaded.chat_ids([{"content": "ab"}], mark="!") == [bos, 66, 67, 2]
    assert scoring.prefix_id(loaded) == bos


def test_without_a_beginning_text_is_scored_after_the_end(hf_directory, tmp_path):
    shutil.copytree(hf_directory, tmp_path / "hf")
    (tmp_path / "hf" / "tokenizer.json").write_text(_bpe("$A").to_str())
    loaded = generate.load(tmp_path / "hf")
    assert (loaded.bos_ids, loaded.eos_ids, scoring.prefix_id(loaded)) == ((), (5,), 5)
    without = dataclasses.replace(loaded.tokenizer, eos_id=None)
    with pytest.raises(CheckpointError, match="no token that a text can begin after"):
        scoring.prefix_id(loaded._replace(tokenizer=without))


def test_a_tokenizer_that_cannot_be_read_is_one_line(hf_directory, tmp_path):
    shutil.copytree(hf_directory, tmp_path / "hf")
    (tmp_path / "hf" / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"^\S+tokenizer.json is no tokenizer.json that"):
        generate.load(tmp_path / "hf")


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
