"""Each way in which a folder is wrong is told in one line, with exit code 2, and nothing written.

`test_wrong_folders` breaks folders at random; here each kind has its words.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import published
import pytest
from safetensors.numpy import load_file, save_file

from kanana_jax import convert
from kanana_jax.weights import hf_files

SHARD = "model-00001-of-00003.safetensors"
EXPERT = "model.layers.1.mlp.experts.0.gate_proj.weight"  # of 32 x 64
PROJECTION = "model.layers.0.self_attn.o_proj.weight"  # of 64 x 16

Change = Callable[[Path], None]


def _json(name: str, edit: Callable[[dict[str, Any]], Any]) -> Change:
    """Changes the object in a file; what `edit` returns is written in its place, if anything."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        other = edit(content)
        (folder / name).write_text(json.dumps(content if other is None else other))

    return change


def _fields(**changes: Any) -> Change:
    return _json("config.json", lambda fields: fields.update(changes))


def _without(*names: str) -> Change:
    return _json("config.json", lambda fields: [fields.pop(name) for name in names] and None)


def _scheme(**changes: Any) -> Change:
    def edit(fields: dict[str, Any]) -> None:
        fields["quantization_config"]["config_groups"]["group_0"]["weights"].update(changes)

    return _json("config.json", edit)


def _quantization(**changes: Any) -> Change:
    return _json("config.json", lambda fields: fields["quantization_config"].update(changes))


def _text(**changes: Any) -> Change:
    return _json("config.json", lambda fields: fields["text_config"].update(changes))


def _bytes(name: str, edit: Callable[[bytes], bytes]) -> Change:
    return lambda folder: (folder / name).write_bytes(edit((folder / name).read_bytes())) and None


def _removed(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def _tensors(edit: Callable[[dict[str, np.ndarray]], Any]) -> Change:
    """Changes the tensors by name; the folder is written anew as one file."""

    def change(folder: Path) -> None:
        headers = hf_files.read_headers(folder)
        found = {name: entry.read() for name, entry in headers.items()}
        edit(found)
        for path in folder.glob("model*"):
            path.unlink()
        save_file(found, folder / "model.safetensors")

    return change


def _put(name: str, make: Callable[[np.ndarray], np.ndarray]) -> Change:
    return _tensors(lambda found: found.update({name: make(found[name])}))


def _left_out(name: str) -> Change:
    return _tensors(lambda found: found.pop(name))


def _copied(name: str, other: str) -> Change:
    return _tensors(lambda found: found.update({other: found[name].copy()}))


def _header(edit: Callable[[str], str]) -> Change:
    def of_bytes(content: bytes) -> bytes:
        end = 8 + int.from_bytes(content[:8], "little")
        header = edit(content[8:end].decode()).encode()
        return len(header).to_bytes(8, "little") + header + content[end:]

    return _bytes(SHARD, of_bytes)


def _twice_in_a_header(header: str) -> str:
    """Its first tensor under the name of its second one."""
    names = [name for name in json.loads(header) if name != "__metadata__"]
    return header.replace(json.dumps(names[1]), json.dumps(names[0]), 1)


def _in_two_shards(folder: Path) -> None:
    name = "model.norm.weight"
    for path in sorted(folder.glob("*.safetensors"))[:2]:
        save_file(load_file(path) | {name: np.ones(64, ml_dtypes.bfloat16)}, path)


def _index(edit: Callable[[dict[str, str]], Any]) -> Change:
    return _json(hf_files.INDEX_NAME, lambda content: edit(content["weight_map"]) and None)


def _tokenizer(content: Any) -> Change:
    return lambda folder: (folder / "tokenizer.json").write_text(json.dumps(content)) and None


def _wide(folder: Path) -> None:
    """A vocabulary that cannot be bytes, and no tokenizer."""
    (folder / "tiktoken.model").unlink()
    _fields(vocab_size=640)(folder)
    grown = {"model.embed_tokens.weight", "lm_head.weight"}
    _tensors(
        lambda found: found.update({name: np.concatenate([found[name]] * 2) for name in grown})
    )(folder)


def _nan(x: np.ndarray) -> np.ndarray:
    return np.full_like(x, np.nan)


# By the model whose folder is broken: how, and what the line says.
PLAIN = {
    "config_absent": (_removed("config.json"), r"expected \S+config.json, which does not exist"),
    "config_not_json": (_bytes("config.json", lambda x: x[:-5]), "no readable JSON"),
    "config_not_text": (_bytes("config.json", lambda x: b"\xff\xfe" + x), "no readable text"),
    "config_is_a_list": (_json("config.json", lambda x: [x]), "expected a JSON object, got list"),
    "config_nests_too_deep": (
        lambda folder: (folder / "config.json").write_text("[" * 100_000) and None,
        "no readable JSON",
    ),
    "architecture_unknown": (_fields(architectures=["BertModel"]), "expected architectures"),
    "architectures_two": (
        _fields(architectures=["DeepseekV3ForCausalLM", "LlamaForCausalLM"]),
        "expected architectures",
    ),
    "field_nan": (_fields(rms_norm_eps=float("nan")), "rms_norm_eps must lie in .*got nan"),
    "field_infinite": (_fields(rope_theta=float("inf")), "rope_theta must lie in .*got inf"),
    "field_text": (_fields(hidden_size="64"), "hidden_size must be int, got '64'"),
    "field_true": (_fields(num_hidden_layers=True), "num_hidden_layers must be int, got True"),
    "field_negative": (_fields(n_shared_experts=-2), "n_shared_experts must lie in .*got -2"),
    "field_absent": (_without("kv_lora_rank"), "config.json lacks kv_lora_rank"),
    "layers_none": (_fields(num_hidden_layers=0), "num_hidden_layers must lie in"),
    "experts_impossible": (_fields(num_experts_per_tok=9), "num_experts_per_tok must be at most 8"),
    "groups_uneven": (_fields(n_group=3), "n_group must divide .* got 3, 1"),
    "rotary_odd": (_fields(qk_rope_head_dim=3), "qk_rope_head_dim must be even"),
    "rope_unknown": (_fields(rope_scaling={"rope_type": "su"}), "expected rope scaling 'yarn'"),
    "rope_no_object": (_fields(rope_scaling=8), "rope_scaling must be an object or null, got 8"),
    "rope_part": (_fields(rope_scaling={"type": "yarn"}), "rope scaling lacks factor"),
    "rope_field_unknown": (
        _fields(
            rope_scaling={
                "type": "yarn",
                "factor": 2.0,
                "original_max_position_embeddings": 16,
                "a": 1,
            }
        ),
        "rope scaling has unknown fields a",
    ),
    "quantization_unknown": (
        _fields(quantization_config={"quant_method": "gptq"}),
        "expected quantisation fp8 .* got 'gptq'",
    ),
    "shape_wrong": (
        _put(PROJECTION, lambda x: x[:-1]),
        rf"{PROJECTION} must have shape \(64, 16\) by config.json, got \(63, 16\)",
    ),
    "shape_turned": (_put(PROJECTION, lambda x: x.T.copy()), f"{PROJECTION} must have shape"),
    "shape_of_a_norm": (
        _put("model.norm.weight", lambda x: x[None]),
        r"model.norm.weight must have shape \(64,\) by config.json, got \(1, 64\)",
    ),
    "dtype_integer": (
        _put(PROJECTION, lambda x: x.astype(np.int8)),
        f"{PROJECTION} has dtype I8; expected one of F32, F16, BF16, F8_E4M3",
    ),
    "dtype_float64": (_put(PROJECTION, lambda x: x.astype(np.float64)), "has dtype F64"),
    "tensor_absent": (_left_out(PROJECTION), f"missing {PROJECTION}"),
    "tensor_unknown": (_copied(PROJECTION, "model.a.weight"), "architecture: model.a.weight"),
    "tensor_renamed": (
        _tensors(lambda found: found.update({"x": found.pop(EXPERT)})),
        f"missing {EXPERT}; not of this architecture: x",
    ),
    "expert_beyond": (
        _copied(EXPERT, EXPERT.replace("experts.0", "experts.8")),
        "not of this architecture: model.layers.1.mlp.experts.8",
    ),
    "tensors_none": (_tensors(dict.clear), "are more than .* tensors, got 0"),
    "packed_unasked": (_copied(EXPERT, f"{EXPERT}_packed"), "config.json says nothing"),
    "shards_none": (
        lambda folder: [path.unlink() for path in folder.glob("model*")] and None,
        "expected model.safetensors or model.safetensors.index.json, got neither",
    ),
    "shard_absent": (_removed(SHARD), f"shard .*{SHARD} is missing; copy it again"),
    "shard_empty": (_bytes(SHARD, lambda x: b""), f"{SHARD} is damaged or cut short"),
    "shard_cut": (_bytes(SHARD, lambda x: x[:-1]), f"{SHARD} is damaged or cut short"),
    "shard_longer": (_bytes(SHARD, lambda x: x + b"\0"), f"{SHARD} is damaged or cut short"),
    "shard_a_pointer": (
        _bytes(SHARD, lambda x: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        f"{SHARD} is damaged or cut short",
    ),
    "header_dtype_unknown": (
        _header(lambda header: header.replace('"BF16"', '"F99"', 1)),
        f"{SHARD} is damaged or cut short",
    ),
    "name_twice_in_a_shard": (_header(_twice_in_a_header), "damaged|holds .* twice"),
    "name_in_two_shards": (_in_two_shards, "model.norm.weight, which belongs to model-0000"),
    "index_not_json": (_bytes(hf_files.INDEX_NAME, lambda x: b"{"), "no readable JSON"),
    "index_without_map": (_json(hf_files.INDEX_NAME, lambda x: {"a": 1}), "has no weight_map"),
    "index_of_one_too_many": (
        _index(lambda places: places.update({"model.x": SHARD})),
        "the index names tensors in no shard: model.x",
    ),
    "index_of_another_file": (
        _index(lambda places: places.update({"model.x": "model-9.safetensors"})),
        "shard .*model-9.safetensors is missing",
    ),
    "index_of_a_number": (
        _index(lambda places: places.update({"model.x": 1})),
        "must name files below this folder, got 1",
    ),
    "ranks_cut": (
        _bytes("tiktoken.model", lambda x: x[: x[:-1].rindex(b"\n") + 1]),
        "tiktoken.model: expected every byte",
    ),
    "ranks_no_base64": (
        _bytes("tiktoken.model", lambda x: b"?" + x),
        "tiktoken.model, line 1: expected base64 and a rank",
    ),
    "pattern_absent": (_removed("tokenization_kimi.py"), "expected pat_str, how text is cut"),
    "special_beyond": (
        _json(
            "tokenizer_config.json",
            lambda said: said["added_tokens_decoder"].update({"400": {"content": "x"}}),
        ),
        "has ids up to 400, but vocab_size is 320",
    ),
    "tokenizer_absent": (_wide, "tokenizer.json, which does not exist: 640 tokens are not bytes"),
    "tokenizer_not_json": (
        lambda folder: (folder / "tokenizer.json").write_text("{") and None,
        "tokenizer.json is no readable JSON",
    ),
    "tokenizer_of_nothing": (_tokenizer({"model": {}}), "is no tokenizer.json that can be read"),
    "tokenizer_larger": (
        _tokenizer({"model": {"vocab": {"a": 320}}}),
        "has ids up to 320, but vocab_size is 320",
    ),
    "tokenizer_with_more_added": (
        _tokenizer({"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 999, "content": "b"}]}),
        "has ids up to 999, but vocab_size is 320",
    ),
}
FP8 = {
    "scale_absent": (_left_out(f"{PROJECTION}_scale_inv"), f"missing {PROJECTION}_scale_inv"),
    "scale_of_nothing": (
        _copied(f"{PROJECTION}_scale_inv", "model.norm.weight_scale_inv"),
        "not of this architecture: model.norm.weight_scale_inv",
    ),
    "scale_shape": (
        _put(f"{PROJECTION}_scale_inv", lambda x: np.concatenate([x, x])),
        rf"{PROJECTION}_scale_inv must have shape \(1, 1\) .* got \(2, 1\)",
    ),
    "scale_dtype": (
        _put(f"{PROJECTION}_scale_inv", lambda x: x.astype(np.uint8)),
        f"{PROJECTION}_scale_inv has dtype U8",
    ),
    "scale_nan": (_put(f"{PROJECTION}_scale_inv", _nan), f"{PROJECTION}_scale_inv .* nan"),
    "block_other": (_quantization(weight_block_size=[64, 64]), r"weight_block_size \[64, 64\]"),
    "float8_norm": (
        _put("model.norm.weight", lambda x: x.astype(ml_dtypes.float8_e4m3fn)),
        "model.norm.weight is no matrix",
    ),
    "float8_of_another_kind": (
        _put(PROJECTION, lambda x: x.astype(np.float32).astype(ml_dtypes.float8_e5m2)),
        f"{PROJECTION} has dtype F8_E5M2",
    ),
}
INT4 = {
    "scale_absent": (_left_out(f"{EXPERT}_scale"), f"missing {EXPERT}_scale"),
    "shape_absent": (_left_out(f"{EXPERT}_shape"), f"missing {EXPERT}_shape"),
    "packed_absent": (_left_out(f"{EXPERT}_packed"), f"missing {EXPERT}"),
    "scale_shape": (
        _put(f"{EXPERT}_scale", lambda x: x[:, :1].copy()),
        rf"{EXPERT}_scale must have shape \(32, 2\) .* got \(32, 1\)",
    ),
    "scale_dtype": (
        _put(f"{EXPERT}_scale", lambda x: x.astype(np.int32)),
        f"{EXPERT}_scale has dtype I32; expected one of F32, F16, BF16",
    ),
    "scale_nan": (_put(f"{EXPERT}_scale", _nan), f"{EXPERT}_scale .* nan"),
    "packed_shape": (
        _put(f"{EXPERT}_packed", lambda x: x[:, 1:].copy()),
        rf"{EXPERT}_packed must have shape \(32, 8\) by {EXPERT}_shape, got \(32, 7\)",
    ),
    "packed_dtype": (
        _put(f"{EXPERT}_packed", lambda x: x.astype(np.int64)),
        f"{EXPERT}_packed must have dtype I32, got I64",
    ),
    "said_shape_other": (
        _put(f"{EXPERT}_shape", lambda x: x[::-1].copy()),
        rf"{EXPERT}_packed must have shape \(64, 4\)",
    ),
    "said_shape_negative": (_put(f"{EXPERT}_shape", np.negative), f"{EXPERT}_shape says"),
    "said_shape_of_floats": (
        _put(f"{EXPERT}_shape", lambda x: x.astype(np.float32)),
        f"{EXPERT}_shape must be two integers, got F32",
    ),
    "group_does_not_divide": (_scheme(group_size=48), "a multiple of group_size 48"),
    "group_of_nothing": (_scheme(group_size=None), "group_size must be a number of columns"),
    "bits_other": (_scheme(num_bits=8), "group_0: num_bits must be 4 or absent, got 8"),
    "asymmetric": (_scheme(symmetric=False), "symmetric must be True or absent, got False"),
    "strategy_other": (_scheme(strategy="channel"), "strategy must be 'group'"),
    "of_floats": (_scheme(type="float"), "type must be 'int'"),
    "columns_ordered": (_scheme(actorder="group"), "actorder must be None"),
    "format_other": (
        _quantization(format="nvfp4-pack-quantized"),
        "expected format 'pack-quantized', got 'nvfp4-pack-quantized'",
    ),
    "groups_two": (_quantization(config_groups={"a": {}, "b": {}}), "expected one of config_group"),
    "cache_quantised": (_quantization(kv_cache_scheme={"num_bits": 8}), "kv_cache_scheme must be"),
    "scheme_absent": (_without("quantization_config"), "weight_packed is packed, of which"),
    "packed_and_whole": (
        _tensors(lambda found: found.update({EXPERT: np.ones((32, 64), np.float32)})),
        f"{EXPERT} is there both packed and whole",
    ),
    "zero_points": (
        _copied(f"{EXPERT}_shape", f"{EXPERT}_zero_point"),
        f"not of this architecture: {EXPERT}_zero_point",
    ),
}
WITH_IMAGES = {
    "text_no_object": (_fields(text_config=[]), r"text_config must be an object, got \[\]"),
    "text_of_another_kind": (
        _text(architectures=["MambaForCausalLM"]),
        "expected architectures .* got .'MambaForCausalLM'",
    ),
    "tied_outside_only": (_fields(tie_word_embeddings=True), "True, but False in text_config"),
    "schemes_differ": (_quantization(format="a"), "quantization_config is .* in text_config"),
    "no_embedding": (
        _left_out("language_model.model.embed_tokens.weight"),
        "expected one tensor whose name ends in model.embed_tokens.weight, .* got none",
    ),
    "two_languages": (
        _copied("language_model.model.embed_tokens.weight", "b.model.embed_tokens.weight"),
        "got b., language_model.",
    ),
    "layer_absent": (
        _left_out("language_model.model.layers.1.mlp.gate.weight"),
        "missing model.layers.1.mlp.gate.weight",
    ),
}
GLM = {
    "order_of_layers": (_fields(mlp_layer_types=["sparse", "dense"]), "'dense' and then 'sparse'"),
    "kinds_too_few": (_fields(mlp_layer_types=["dense"]), "one for each of 2 layers"),
    "dense_twice": (_fields(mlp_layer_types=["dense", "dense"]), "first_k_dense_replace is 1, but"),
}
KINDS = {
    (model, name): case
    for model, cases in {
        "moonlight_16b_a3b": PLAIN,
        "kimi_k2": FP8,
        "kimi_k2_thinking": INT4,
        "kimi_k2_5": WITH_IMAGES,
        "glm_4_7_flash": GLM,
    }.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize(("model", "name"), KINDS)
def test_a_malformed_folder_is_one_line_and_nothing_is_written(model, name, tmp_path, capsys):
    change, message = KINDS[model, name]
    source, _ = published.write(tmp_path / "hf", model)
    change(source)
    with pytest.raises(SystemExit) as stopped:
        convert.main([f"--from-hf={source}", f"--to={tmp_path / 'to' / 'native'}"])
    shown = capsys.readouterr().err.splitlines()
    lines = [line for line in shown if line.startswith("kanana_jax.convert: ")]
    assert len(lines) == 1, shown
    assert re.search(message, lines[0]), lines[0]
    assert stopped.value.code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
