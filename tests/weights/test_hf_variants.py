"""Published folders differ in what changes no number, and are read all the same."""

import json

import hf_folder
import ml_dtypes
import numpy as np
import parity_cases
import pytest

from kanana_jax.checkpoint import CheckpointError
from kanana_jax.weights import hf, hf_config, native

FIELDS = parity_cases.CASES["yarn"]
WEIGHTS = hf_folder.tensors(FIELDS)
YARN = parity_cases.YARN


def _without(*names):
    return {name: value for name, value in FIELDS.items() if name not in names}


def _rope(name, **changes):
    """The fields of YaRN as one object, without what is None."""
    scaling = {"rope_theta": 100.0, "rope_type": "yarn", **YARN, **changes}
    return _without("rope_theta", "rope_scaling") | {name: scaling}


SAME = {
    "written_by_transformers_5": _rope("rope_parameters"),
    "theta_inside_of_scaling": _rope("rope_scaling"),
    "both_objects": FIELDS | _rope("rope_parameters"),
    "older_name": FIELDS | {"rope_scaling": YARN | {"type": "deepseek_yarn", "rope_type": "yarn"}},
    "fields_of_null": FIELDS | {"rope_scaling": YARN | {"beta_slow": None, "finetuned": True}},
    "fields_at_their_neutral_value": FIELDS
    | {"rope_scaling": YARN | {"truncate": True, "attn_factor": 1, "partial_rotary_factor": 1.0}},
    "only_a_type": _without("architectures"),
    "architecture_of_null": FIELDS | {"architectures": None, "model_type": "kimi_k2"},
    "of_remote_code": FIELDS
    | {
        "model_type": "kimi_k2",
        "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
        "aux_loss_alpha": 0.001,
        "seq_aux": True,
        "ep_size": 1,
        "pretraining_tp": 1,
        "num_nextn_predict_layers": None,
        "quantization_config": None,
        "initializer_range": None,
        "attention_dropout": 0.0,
        "head_dim": 4,
        "pad_token_id": None,
        "rope_interleave": None,
        "torch_dtype": None,
        "dtype": "bfloat16",
    },
}


@pytest.mark.parametrize("name", SAME)
def test_fields_spelled_otherwise_mean_the_same_model(name):
    assert hf_config.from_hf(SAME[name]) == hf_config.from_hf(FIELDS)


def test_no_scaling_is_spelled_in_several_ways():
    plain = hf_config.from_hf(FIELDS | {"rope_scaling": None})
    for scaling in ({}, {"rope_type": "default"}, {"type": "default", "rope_theta": 100.0}):
        assert hf_config.from_hf(FIELDS | {"rope_scaling": scaling}) == plain


CONTRADICTIONS = {
    "two_thetas": (FIELDS | {"rope_parameters": {"rope_theta": 5.0}}, "differ, got 5.0 and 100.0"),
    "two_scalings": (
        FIELDS | {"rope_parameters": YARN | {"rope_theta": 100.0, "factor": 8.0}},
        "differ, got YarnConfig",
    ),
    "two_kinds": (
        FIELDS | {"rope_scaling": YARN | {"rope_type": "default"}},
        "got 'default' and 'yarn'",
    ),
    "no_kind": (FIELDS | {"rope_scaling": {"factor": 4.0}}, "got no rope_type"),
    "no_object": (FIELDS | {"rope_scaling": "yarn"}, "must be an object or null"),
    "part_of_a_head": (
        FIELDS | {"rope_scaling": {"type": "default", "partial_rotary_factor": 0.5}},
        "partial_rotary_factor must be 1.0",
    ),
    "part_of_a_head_outside": (
        FIELDS | {"partial_rotary_factor": 0.5},
        "partial_rotary_factor must be 1.0",
    ),
    "other_type": (FIELDS | {"architectures": None, "model_type": "gpt2"}, "expected archit"),
    "other_amplitude": (
        FIELDS | {"rope_scaling": YARN | {"attn_factor": 1.5}},
        "attn_factor must be 1.0",
    ),
    "not_finite": (FIELDS | {"rms_norm_eps": float("nan")}, "rms_norm_eps must lie in"),
    "too_large": (FIELDS | {"vocab_size": 10**30}, "vocab_size must lie in"),
    "too_many_layers": (FIELDS | {"num_hidden_layers": 10**4}, "more than .* tensors, got"),
    "impossible": (FIELDS | {"num_experts_per_tok": 9}, "config.json: .* at most 8"),
    "predictors": (FIELDS | {"num_nextn_predict_layers": "1"}, "must be a number of layers"),
    "quantized": (FIELDS | {"quantization_config": "fp8"}, "expected quantisation fp8"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_fields_that_change_numbers_are_refused_by_name(name, tmp_path):
    fields, message = CONTRADICTIONS[name]
    source = hf_folder.write(tmp_path / "hf", FIELDS, WEIGHTS)
    (source / "config.json").write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match=message):
        hf.open_directory(source)


def _weights_of(opened):
    return {
        tensor.name: opened.read_part(leaf, tensor)
        for leaf in opened.leaves.values()
        for tensor in leaf.tensors
    }


def _assert_same(one, other):
    one, other = _weights_of(one), _weights_of(other)
    assert one.keys() == other.keys()
    for name, x in one.items():
        np.testing.assert_array_equal(x, other[name], name)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = hf_folder.write(tmp_path_factory.mktemp("variants") / "hf", FIELDS, WEIGHTS)
    return hf.open_directory(folder)


FREQUENCIES = np.ones(2, np.float16)  # a dtype that no weight may have
BUFFERS = {
    "in_each_layer": [
        f"model.layers.{layer}.self_attn.rotary_emb.{name}"
        for layer in range(3)
        for name in ("inv_freq", "cos_cached", "sin_cached")
    ],
    "of_the_model": ["model.rotary_emb.inv_freq", "model.rotary_emb.original_inv_freq"],
}


@pytest.mark.parametrize("name", BUFFERS)
def test_buffers_that_follow_from_the_config_are_passed_over(name, plain, tmp_path):
    weights = WEIGHTS | dict.fromkeys(BUFFERS[name], FREQUENCIES)
    opened = hf.open_directory(hf_folder.write(tmp_path / "hf", FIELDS, weights))
    _assert_same(opened, plain)
    assert opened.left_out == []


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.3.self_attn.rotary_emb.inv_freq",  # there are layers 0 to 2
        "model.layers.0.self_attn.rotary_emb.weight",
        "model.layers.0.mlp.inv_freq",
    ],
)
def test_what_only_resembles_a_buffer_is_refused(name, tmp_path):
    source = hf_folder.write(tmp_path / "hf", FIELDS, WEIGHTS | {name: FREQUENCIES})
    with pytest.raises(CheckpointError, match=f"not of this architecture: {name}"):
        hf.open_directory(source)


def test_layers_of_extra_predictors_are_left_out_as_far_as_they_are_counted(tmp_path):
    names = [f"model.layers.{layer}.eh_proj.weight" for layer in (3, 4)]
    weights = WEIGHTS | dict.fromkeys(names, FREQUENCIES)
    source = hf_folder.write(tmp_path / "hf", FIELDS | {"num_nextn_predict_layers": 2}, weights)
    assert sorted(hf.open_directory(source).left_out) == names
    (source / "config.json").write_text(json.dumps(FIELDS | {"num_nextn_predict_layers": 1}))
    with pytest.raises(CheckpointError, match=f"not of this architecture: {names[1]}"):
        hf.open_directory(source)


def test_layers_of_extra_predictors_need_not_be_counted(plain, tmp_path):
    """Nor may they be where the file counts none; and what has no such projection is refused."""
    fields = {k: v for k, v in FIELDS.items() if k != "num_nextn_predict_layers"}
    names = [f"model.layers.3.{name}.weight" for name in ("eh_proj", "mlp.gate")]
    weights = WEIGHTS | dict.fromkeys(names, FREQUENCIES)
    opened = hf.open_directory(hf_folder.write(tmp_path / "hf", fields, weights))
    assert sorted(opened.left_out) == names
    _assert_same(opened, plain)
    (tmp_path / "hf" / "config.json").write_text(json.dumps(FIELDS))
    with pytest.raises(CheckpointError, match=f"not of this architecture: {names[0]}"):
        hf.open_directory(tmp_path / "hf")
    del weights[names[0]]
    with pytest.raises(CheckpointError, match=f"not of this architecture: {names[1]}"):
        hf.open_directory(hf_folder.write(tmp_path / "other", fields, weights))


def test_float16_is_read_without_a_change(tmp_path):
    weights = {name: x if "bias" in name else x.astype(np.float16) for name, x in WEIGHTS.items()}
    source = hf_folder.write(tmp_path / "hf", FIELDS, weights)
    hf.import_directory(source, tmp_path / "native")
    hf.export_directory(tmp_path / "native", tmp_path / "back")
    for name, x in hf_folder.read(tmp_path / "back").items():
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, weights[name].astype(np.float32), name)


def test_a_tied_head_may_be_stored_twice_but_not_differently(tmp_path):
    fields = parity_cases.CASES["tied"]
    weights = hf_folder.tensors(fields)
    twice = weights | {"lm_head.weight": weights["model.embed_tokens.weight"]}
    opened = hf.open_directory(hf_folder.write(tmp_path / "twice", fields, twice))
    _assert_same(opened, hf.open_directory(hf_folder.write(tmp_path / "once", fields, weights)))
    twice["lm_head.weight"] = twice["lm_head.weight"] + np.float32(1e-3)
    with pytest.raises(CheckpointError, match="tie_word_embeddings is true, but"):
        hf.open_directory(hf_folder.write(tmp_path / "other", fields, twice))


def test_the_routers_bias_has_any_dtype(plain, tmp_path):
    weights = {
        name: x.astype(ml_dtypes.bfloat16) if "bias" in name else x for name, x in WEIGHTS.items()
    }
    opened = hf.open_directory(hf_folder.write(tmp_path / "hf", FIELDS, weights))
    bias = opened.read_layer("router_bias", 0)
    assert bias.dtype == np.float32
    np.testing.assert_allclose(bias, plain.read_layer("router_bias", 0), rtol=2**-8)


def test_a_float8_norm_is_refused(tmp_path):
    name = "model.norm.weight"
    weights = WEIGHTS | {
        name: WEIGHTS[name].astype(ml_dtypes.float8_e4m3fn),
        f"{name}_scale_inv": np.ones(1, np.float32),
    }
    with pytest.raises(CheckpointError, match=f"{name} is no matrix"):
        hf.open_directory(hf_folder.write(tmp_path / "hf", FIELDS, weights))


def _link_into_a_cache(folder):
    """As huggingface_hub keeps files: blobs, and a snapshot of links."""
    (folder.parent / "blobs").mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        blob = folder.parent / "blobs" / str(number)
        path.rename(blob)
        path.symlink_to(f"../blobs/{number}")


def _mark_json(folder):
    for path in folder.glob("*.json"):
        path.write_text(path.read_text(), encoding="utf-8-sig")


def _add_what_others_read(folder):
    (folder / "original").mkdir()
    (folder / "original" / "consolidated.00.pth").write_bytes(b"x")
    (folder / "consolidated.safetensors").write_bytes(b"x")
    (folder / "configuration_deepseek.py").write_text("raise SystemExit")


def _say_more_in_the_index(folder):
    index = json.loads((folder / hf.hf_files.INDEX_NAME).read_text())
    del index["weight_map"]["lm_head.weight"]  # its shard has it
    index |= {"metadata": {"total_size": 1e99, "total_parameters": None}, "format": "pt"}
    (folder / hf.hf_files.INDEX_NAME).write_text(json.dumps(index))


@pytest.mark.parametrize(
    "change", [_link_into_a_cache, _mark_json, _add_what_others_read, _say_more_in_the_index]
)
def test_a_folder_that_looks_otherwise_is_read_alike(change, plain, tmp_path):
    folder = hf_folder.write(tmp_path / "hf", FIELDS, WEIGHTS)
    change(folder)
    _assert_same(hf.open_directory(folder), plain)


@pytest.mark.parametrize("place", ["../other/", "below/../../other/", "/"])
def test_an_index_that_leads_out_of_its_folder_is_refused(place, tmp_path):
    folder = hf_folder.write(tmp_path / "hf", FIELDS, WEIGHTS)
    hf_folder.write(tmp_path / "other", FIELDS, WEIGHTS)
    index = (folder / hf.hf_files.INDEX_NAME).read_text().replace("model-", f"{place}model-")
    (folder / hf.hf_files.INDEX_NAME).write_text(index)
    with pytest.raises(CheckpointError, match="must name files below this folder"):
        hf.open_directory(folder)


def test_one_file_counts_before_an_index(plain, tmp_path):
    folder = hf_folder.write(tmp_path / "hf", FIELDS, WEIGHTS, num_shards=1)
    shard = next(folder.glob("*.safetensors"))
    shard.rename(folder / "model.safetensors")
    _assert_same(hf.open_directory(folder), plain)


def test_everything_that_makes_text_of_tokens_goes_along(tmp_path):
    names = ["tiktoken.model", "tokenizer.model", "chat_template.json", "generation_config.json"]
    names.append("additional_chat_templates/tool_use.jinja")
    for name in names:
        (tmp_path / "from" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "from" / name).write_text(name)
    (tmp_path / "from" / "modeling.py").write_text("")
    (tmp_path / "to").mkdir()
    native.copy_tokenizer(tmp_path / "from", tmp_path / "to")
    copied = [path for path in (tmp_path / "to").rglob("*") if path.is_file()]
    found = {str(path.relative_to(tmp_path / "to")): path.read_text() for path in copied}
    assert found == {name: name for name in names}


def test_a_place_that_cannot_be_written_to_is_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/below", "x" * 300):
        with pytest.raises(CheckpointError) as caught, native.new_directory(tmp_path / place):
            raise AssertionError("not reached")
        assert "\n" not in str(caught.value)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
