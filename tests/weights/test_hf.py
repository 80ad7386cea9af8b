"""Hugging Face folders in and out: nothing lost, nothing guessed, nothing written on a mistake."""

import dataclasses
import json
import re
import shutil

import hf_folder
import ml_dtypes
import numpy as np
import parity_cases
import pytest

from kanana_jax import convert
from kanana_jax.checkpoint.errors import CheckpointError
from kanana_jax.weights import hf, hf_config, hf_names, native

ROUND_TRIPS = {
    "q_lora_groups_yarn": (parity_cases.CASES["like_deepseek"], ml_dtypes.bfloat16),
    "tied": (parity_cases.CASES["tied"], np.float32),
    "all_dense": (parity_cases.CASES["all_dense"], ml_dtypes.bfloat16),
}
FIELDS = parity_cases.CASES["plain"]


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_a_round_trip_changes_no_bit(name, tmp_path):
    fields, dtype = ROUND_TRIPS[name]
    fields = fields | {"torch_dtype": np.dtype(dtype).name, "eos_token_id": [1, 5]}
    weights = hf_folder.tensors(fields, dtype)
    source = hf_folder.write(tmp_path / "hf", fields, weights)
    convert.main([f"--from-hf={source}", f"--to={tmp_path / 'native'}"])
    convert.main([f"--from={tmp_path / 'native'}", f"--to-hf={tmp_path / 'back'}"])
    back = hf_folder.read(tmp_path / "back")
    assert back.keys() == weights.keys()
    for tensor, x in weights.items():
        assert back[tensor].dtype == x.dtype
        np.testing.assert_array_equal(back[tensor].view(np.uint8), x.view(np.uint8), tensor)
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {key: written[key] for key in fields} == fields
    assert (tmp_path / "back" / "tokenizer_config.json").read_text() == "{}"


def _with_scalars(dtype=np.float32):
    fields = FIELDS | {
        "architectures": ["DeepseekV3ForSequenceClassification"],
        "num_labels": 1,
        "torch_dtype": np.dtype(dtype).name,
        "id2label": {"0": "reward"},
        "label2id": {"reward": 0},
    }
    score = parity_cases.weight("score.weight", (1, FIELDS["hidden_size"])).astype(dtype)
    return fields, hf_folder.tensors(fields, dtype) | {"score.weight": score}


def test_a_scalar_head_goes_there_and_back(tmp_path):
    fields, weights = _with_scalars(ml_dtypes.bfloat16)
    source = hf_folder.write(tmp_path / "hf", fields, weights)
    convert.main([f"--from-hf={source}", f"--to={tmp_path / 'native'}"])
    shape = native.read_description(tmp_path / "native").cfg
    assert shape.scalar_head
    like = native.abstract(shape, ml_dtypes.bfloat16)
    found = native.restore(tmp_path / "native", like).params["scalar_head"]
    # What rewards are read with is float32 whatever the rest is.
    np.testing.assert_array_equal(found, weights["score.weight"][0].astype(np.float32))
    convert.main([f"--from={tmp_path / 'native'}", f"--to-hf={tmp_path / 'back'}"])
    back = hf_folder.read(tmp_path / "back")
    assert back.keys() == weights.keys()
    np.testing.assert_array_equal(back["score.weight"], weights["score.weight"])
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {key: written[key] for key in fields} == fields


def test_a_classifier_is_no_reward_model(tmp_path, capsys):
    fields, weights = _with_scalars()
    source = hf_folder.write(tmp_path / "hf", fields | {"num_labels": 2}, weights)
    _check_refused(source, tmp_path, capsys, "expected one label, a reward, got num_labels 2")


def test_a_head_without_its_architecture_is_refused(tmp_path, capsys):
    source = hf_folder.write(tmp_path / "hf", FIELDS, _with_scalars()[1])
    _check_refused(source, tmp_path, capsys, "not of this architecture: score.weight")


def test_shards_stay_below_their_limit_and_the_index_finds_every_tensor(tmp_path):
    weights = hf_folder.tensors(FIELDS)
    source = hf_folder.write(tmp_path / "hf", FIELDS, weights)
    hf.import_directory(source, tmp_path / "native")
    hf.export_directory(tmp_path / "native", tmp_path / "back", shard_bytes=20_000)
    files = sorted((tmp_path / "back").glob("*.safetensors"))
    assert len(files) > 3
    assert max(file.stat().st_size for file in files) < 20_000 + 4_000  # and a header
    places = json.loads((tmp_path / "back" / hf.hf_files.INDEX_NAME).read_text())["weight_map"]
    assert places.keys() == weights.keys()
    hf.import_directory(tmp_path / "back", tmp_path / "again")


def test_a_dtype_asked_for_is_the_one_written_and_the_bias_stays_float32(tmp_path):
    source = hf_folder.write(tmp_path / "hf", FIELDS, hf_folder.tensors(FIELDS))
    hf.import_directory(source, tmp_path / "native", dtype="bfloat16")
    hf.export_directory(tmp_path / "native", tmp_path / "back")
    dtypes = {name: x.dtype.name for name, x in hf_folder.read(tmp_path / "back").items()}
    assert {dtypes.pop(name) for name in list(dtypes) if "bias" in name} == {"float32"}
    assert set(dtypes.values()) == {"bfloat16"}


def test_float8_blocks_are_scaled_back(tmp_path):
    fields = FIELDS | {
        "hidden_size": 160,  # over one block, and no multiple of it
        "intermediate_size": 144,
        "num_nextn_predict_layers": 1,
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    }
    exact = hf_folder.tensors(fields)
    stored = dict(exact)
    quantized = [name for name in exact if "_proj" in name]
    for name in quantized:
        stored[name], stored[f"{name}_scale_inv"] = hf_folder.block_quantized(exact[name])
    stored["model.layers.3.eh_proj.weight"] = np.ones((2, 2), np.float32)
    source = hf_folder.write(tmp_path / "hf", fields, stored)
    left_out = hf.import_directory(source, tmp_path / "native", dtype="float32")
    assert left_out == ["model.layers.3.eh_proj.weight"]
    hf.export_directory(tmp_path / "native", tmp_path / "back")
    back = hf_folder.read(tmp_path / "back")
    assert back.keys() == exact.keys()
    for name in quantized:
        # Three mantissa bits: half a unit in the last place is 2^-4 of the number.
        np.testing.assert_allclose(back[name], exact[name], rtol=2**-4, atol=1e-3, err_msg=name)


def test_every_leaf_is_covered_once():
    cfg = hf_config.from_hf(parity_cases.CASES["like_deepseek"])
    for path, leaf in hf_names.leaves(cfg).items():
        count = np.zeros(leaf.shape, np.int32)
        for tensor in leaf.tensors:
            count[tensor.index] += 1
        assert (count == 1).all(), path


@pytest.mark.parametrize("name", parity_cases.CASES)
def test_config_fields_survive_both_ways(name):
    fields = parity_cases.CASES[name]
    cfg = hf_config.from_hf(fields)
    written = hf_config.to_hf(cfg, hf_config.extra_fields(fields), "float32")
    assert hf_config.from_hf(written) == cfg
    changed = {key for key in fields if written[key] != fields[key]}
    # The weights are permuted to the one layout, and what is DeepSeek's shape is written as that.
    allowed = {"rope_interleave"}
    assert changed <= allowed | ({"architectures", "model_type"} if "glm" in name else set())


def test_a_clamp_of_swiglu_is_not_exported_as_if_it_were_none():
    cfg = dataclasses.replace(hf_config.from_hf(FIELDS), swiglu_clamp=10.0)
    with pytest.raises(CheckpointError, match="expected swiglu_clamp none, got 10"):
        hf_config.to_hf(cfg, hf_config.extra_fields(FIELDS), "float32")


def test_rope_fields_of_transformers_5_mean_the_same():
    old = parity_cases.CASES["yarn"]
    new = {name: x for name, x in old.items() if not name.startswith("rope_")}
    yarn = {name: x for name, x in old["rope_scaling"].items() if name != "type"}
    new["rope_parameters"] = {"rope_type": "yarn", "rope_theta": old["rope_theta"], **yarn}
    assert hf_config.from_hf(new) == hf_config.from_hf(old)


BAD_FIELDS = {
    "attention_bias": ({"attention_bias": True}, "attention_bias must be False or absent"),
    "architecture": ({"architectures": ["GPT2LMHeadModel"]}, "expected architectures"),
    "softmax_scores": ({"scoring_func": "softmax"}, "scoring_func must be 'sigmoid'"),
    "grouped_keys": ({"num_key_value_heads": 1}, "num_key_value_heads must be 2"),
    "wrong_type": ({"n_group": "1"}, "n_group must be int, got '1'"),
    "linear_rope": ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope scaling 'yarn'"),
    "rope_factor": (
        {"rope_scaling": parity_cases.YARN | {"attention_factor": 2.0}},
        "attention_factor must be None",
    ),
    "quantized": ({"quantization_config": {"quant_method": "awq"}}, "expected quantisation fp8"),
    "impossible": ({"num_experts_per_tok": 9}, "json: num_experts_per_tok must be at most 8"),
    "theta": ({"rope_theta": 0}, "json: rope_theta must lie in"),
    "not_a_number": ({"rms_norm_eps": float("nan")}, "json: rms_norm_eps must lie in .*got nan"),
    "negative": ({"n_shared_experts": -1}, "json: n_shared_experts must lie in"),
    "no_extension": (
        {"rope_scaling": parity_cases.YARN | {"factor": 0.5}},
        "json: factor must lie in",
    ),
    "another_width": ({"moe_intermediate_size": 25}, "must have shape .* by config.json"),
    "more_layers": ({"num_hidden_layers": 4}, "missing model.layers.3.input_layernorm"),
    "fewer_layers": ({"num_hidden_layers": 2}, "not of this architecture: model.layers.2"),
}


@pytest.mark.parametrize("name", BAD_FIELDS)
def test_a_config_that_cannot_be_used_is_one_line(name, tmp_path, capsys):
    changes, message = BAD_FIELDS[name]
    source = hf_folder.write(tmp_path / "hf", FIELDS, hf_folder.tensors(FIELDS))
    (source / "config.json").write_text(json.dumps(FIELDS | changes))
    _check_refused(source, tmp_path, capsys, message)


@pytest.mark.parametrize("name", ["q_lora_rank", "topk_group", "rope_theta", "rms_norm_eps"])
def test_a_config_without_a_field_is_one_line(name, tmp_path, capsys):
    source = hf_folder.write(tmp_path / "hf", FIELDS, hf_folder.tensors(FIELDS))
    fields = {key: value for key, value in FIELDS.items() if key != name}
    (source / "config.json").write_text(json.dumps(fields))
    _check_refused(source, tmp_path, capsys, f"lacks {name}")


def _remove_shard(folder):
    (folder / "model-00002-of-00003.safetensors").unlink()


def _cut_shard(folder):
    path = folder / "model-00001-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-3])


def _cut_header(folder):
    path = folder / "model-00001-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:20])


def _misplace(folder):
    index = folder / hf.hf_files.INDEX_NAME
    content = json.loads(index.read_text())
    content["weight_map"]["lm_head.weight"] = "model-00002-of-00003.safetensors"
    index.write_text(json.dumps(content))


def _remove_weights(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(FIELDS))


def _spoil_config(folder):
    (folder / "config.json").write_text("{")


BAD_FILES = {
    "missing_shard": (_remove_shard, "is missing; copy it again"),
    "cut_shard": (_cut_shard, "is damaged or cut short"),
    "cut_header": (_cut_header, "is damaged or cut short"),
    "misplaced": (_misplace, "each tensor must lie in one shard|in no shard"),
    "no_weights": (_remove_weights, "got neither"),
    "bad_json": (_spoil_config, "no readable JSON"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_cannot_be_used_are_one_line(name, tmp_path, capsys):
    damage, message = BAD_FILES[name]
    source = hf_folder.write(tmp_path / "hf", FIELDS, hf_folder.tensors(FIELDS))
    damage(source)
    _check_refused(source, tmp_path, capsys, message)


def test_a_wrong_dtype_is_refused(tmp_path, capsys):
    weights = hf_folder.tensors(FIELDS)
    weights["lm_head.weight"] = weights["lm_head.weight"].astype(np.int32)
    source = hf_folder.write(tmp_path / "hf", FIELDS, weights)
    _check_refused(source, tmp_path, capsys, "lm_head.weight has dtype I32")


def test_float8_without_its_scale_is_refused(tmp_path, capsys):
    weights = hf_folder.tensors(FIELDS)
    name = "model.layers.1.self_attn.q_proj.weight"
    weights[name] = weights[name].astype(ml_dtypes.float8_e4m3fn)
    source = hf_folder.write(tmp_path / "hf", FIELDS, weights)
    _check_refused(source, tmp_path, capsys, f"missing {name}_scale_inv")


def test_a_folder_with_something_in_it_is_never_written_to(tmp_path, capsys):
    source = hf_folder.write(tmp_path / "hf", FIELDS, hf_folder.tensors(FIELDS))
    (tmp_path / "native").mkdir()
    (tmp_path / "native" / "mine").write_text("")
    with pytest.raises(SystemExit) as stopped:
        convert.main([f"--from-hf={source}", f"--to={tmp_path / 'native'}"])
    assert stopped.value.code == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "native").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--to=a"],
        ["--from-hf=a", "--to-hf=b"],
        ["--from=a", "--to=b"],
        ["--from-hf=a", "--to=b", "--average"],
        ["--merge=a", "--to=b", "--last=2"],
        ["--merge-run=a", "--to=b"],
    ],
)
def test_a_command_that_names_no_conversion_is_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        convert.main(arguments)
    assert stopped.value.code == 2
    assert "expected the flags --from-hf --to [--dtype] [--images], or" in capsys.readouterr().err


def _check_refused(source, tmp_path, capsys, message):
    with pytest.raises(SystemExit) as stopped:
        convert.main([f"--from-hf={source}", f"--to={tmp_path / 'native'}"])
    assert stopped.value.code == 2
    shown = capsys.readouterr().err.splitlines()
    lines = [line for line in shown if line.startswith("kanana_jax.convert: ")]
    assert len(lines) == 1, shown
    assert re.search(message, lines[0]), lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
