"""Folders of published models go in, out and in again, quantised or beside other parts."""

import json

import hf_folder
import ml_dtypes
import numpy as np
import published
import pytest

from kanana_jax import convert
from kanana_jax.weights import hf, hf_config, native

LEFT_OUT = {
    "deepseek_v3": ["model.layers.2.eh_proj.weight"],
    "glm_4_7_flash": ["model.layers.2.eh_proj.weight"],
    "kimi_k2_5": ["mm_projector.pre_norm.weight", "vision_tower.patch_embed.proj.bias"],
}


@pytest.fixture(scope="module", params=published.MODELS)
def exported(request, tmp_path_factory):
    """(name, folder of the model's files, its exported one, what its weights mean)."""
    folder = tmp_path_factory.mktemp(request.param)
    source, meant = published.write(folder / "hf", request.param)
    left_out = hf.import_directory(source, folder / "native")
    assert sorted(left_out) == LEFT_OUT.get(request.param, [])
    hf.export_directory(folder / "native", folder / "back")
    return request.param, folder, meant


def test_a_published_folder_loads_exports_and_loads_again(exported):
    _, folder, meant = exported
    back = hf.open_directory(folder / "back")
    assert back.cfg == native.read_description(folder / "native").cfg
    assert back.left_out == []
    assert back.entries.keys() == meant.keys()
    for tensor, x in meant.items():
        got = back.entries[tensor].read()
        assert got.dtype == (np.float32 if "bias" in tensor else ml_dtypes.bfloat16), tensor
        np.testing.assert_array_equal(got.view(np.uint8), x.view(np.uint8), tensor)


def test_what_is_exported_is_plain_and_says_so(exported):
    name, folder, _ = exported
    written = json.loads((folder / "back" / "config.json").read_text())
    fields = published.text_of(published.MODELS[name])
    is_latent = "kv_lora_rank" in fields
    architectures = ["DeepseekV3ForCausalLM"] if is_latent else fields["architectures"]
    assert written["architectures"] == architectures
    assert not written.keys() & {"quantization_config", "text_config", "vision_config", "auto_map"}
    assert written.get("eos_token_id") == fields.get("eos_token_id")
    assert written["max_position_embeddings"] == fields["max_position_embeddings"]
    ends = json.loads((folder / "back" / "tokenizer_config.json").read_text())
    assert ends["eos_token"] == "[EOS]"
    path = folder / "back" / "tokenizer.json"
    assert path.exists() == (name in published.OF_TIKTOKEN)
    if path.exists():
        added = {x["id"]: x["content"] for x in json.loads(path.read_text())["added_tokens"]}
        assert {number: added[number] for number in published.SPECIAL} == published.SPECIAL


def test_scales_in_float32_keep_what_they_say(tmp_path):
    fields = published.KIMI_K2_THINKING
    files, _ = published.stored(fields)
    name = "model.layers.1.mlp.experts.3.down_proj.weight"
    files[f"{name}_scale"] = files[f"{name}_scale"].astype(np.float32) * np.float32(1.001)
    opened = hf.open_directory(hf_folder.write(tmp_path / "hf", fields, files))
    assert opened.entries[name].dtype == np.float32
    want = hf_folder.unpacked(files[f"{name}_packed"], files[f"{name}_scale"])
    got = opened.entries[name].read()
    np.testing.assert_array_equal(got.astype(ml_dtypes.bfloat16), want)
    assert (got != want.astype(np.float32)).any()


def test_layers_listed_by_kind_are_counted():
    """As transformers 5 writes GLM-4.7-Flash."""
    fields = published.GLM_4_7_FLASH
    listed = {key: value for key, value in fields.items() if key != "first_k_dense_replace"}
    listed |= {"mlp_layer_types": ["dense", "sparse"]}
    assert hf_config.from_hf(listed) == hf_config.from_hf(fields)
    assert hf_config.from_hf(listed | {"mlp_layer_types": ["dense"] * 2}).num_moe_layers == 0
    assert "mlp_layer_types" not in hf_config.extra_fields(listed)


def test_the_command_says_what_it_left_out(tmp_path, capsys):
    source, _ = published.write(tmp_path / "hf", "kimi_k2_5")
    convert.main([f"--from-hf={source}", f"--to={tmp_path / 'native'}"])
    assert capsys.readouterr().out == "left out 2 tensors, of mm_projector, vision_tower\n"
