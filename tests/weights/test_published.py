"""Folders of published models go in, out and in again, quantised or beside other parts."""

import json

import ml_dtypes
import numpy as np
import published
import pytest

from kanana_jax.weights import hf, native

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
