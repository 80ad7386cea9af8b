"""python -m kanana_jax.generate: what it prints, and what it says when that cannot work."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_decoder

from kanana_jax import generate
from kanana_jax.checkpoint import CheckpointError
from kanana_jax.data import tokenizer
from kanana_jax.generate import __main__ as command
from kanana_jax.weights import native


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of bytes, stored in bfloat16."""
    path = tmp_path_factory.mktemp("models") / "small"
    weights = small_decoder.random_weights(small_decoder.SHALLOW)
    like = native.abstract(small_decoder.SHALLOW, jnp.bfloat16)
    narrow = jax.tree.map(lambda x, to: np.asarray(x, to.dtype), weights, like)
    stored = jax.tree.map(native.streamed, native.stored(narrow))
    with native.new_directory(path) as temporary:
        native.write(temporary, native.Description(small_decoder.SHALLOW, {}, "float32"), stored)
    return path


def test_a_folder_is_loaded_in_the_dtype_it_computes_in(folder):
    loaded = generate.load(folder, "bfloat16")
    assert loaded.weights.layers[1].block["mlp"]["router"].dtype == jnp.float32
    want = small_decoder.prepared(small_decoder.SHALLOW)

    def same(got, want):
        np.testing.assert_array_equal(got, want.astype(got.dtype))

    jax.tree.map(same, loaded.weights, want)
    assert loaded.weights.embed_VD.dtype == jnp.bfloat16
    assert loaded.prompt_ids("ab") == [256, 97, 98]
    assert loaded.eos_ids == (257,)


def test_a_model_trained_here_begins_where_its_documents_did(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "bpe")
    bpe = tokenizer.train_bpe([b"ab"], 258)
    (tmp_path / "bpe" / "tokenizer.json").write_text(bpe.json)
    loaded = generate.load(tmp_path / "bpe")
    assert loaded.prompt_ids("a")[:-1] == [bpe.bos_id]
    assert loaded.eos_ids == (bpe.eos_id,)


def test_ids_named_by_the_config_replace_the_tokenizers(folder, tmp_path):
    cfg = native.read_description(folder).cfg
    extra = {"bos_token_id": None, "eos_token_id": [3, 4]}
    like = native.abstract(cfg, jnp.float32)
    with native.new_directory(tmp_path / "other") as temporary:
        weights = native.stored(native.restore(folder, like))
        streamed = jax.tree.map(native.streamed, weights)
        native.write(temporary, native.Description(cfg, extra), streamed)
    loaded = generate.load(tmp_path / "other")
    assert (loaded.bos_ids, loaded.eos_ids) == ((), (3, 4))


@pytest.mark.long
def test_the_command_prints_the_same_text_for_the_same_seed(folder, capsys):
    arguments = [f"--checkpoint={folder}", "--prompt=ab", "--max-tokens=6", "--seed=3"]
    shown = []
    for _ in range(2):
        command.main(arguments)
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    command.main([*arguments, "--prompt=cd"])
    first, second = capsys.readouterr().out.split("[2] ")
    assert first == f"[1] {shown[0]}"
    assert second != first
    command.main([*arguments, "--prompt=ab"])
    first, second = capsys.readouterr().out.split("[2] ")
    assert first == f"[1] {shown[0]}"
    assert second != shown[0]


@pytest.mark.long
def test_a_chat_goes_through_the_template(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "chat")
    template = "<|bos|>{% for m in messages %}{{ m.content }}{% endfor %}"
    (tmp_path / "chat" / "chat_template.jinja").write_text(template)
    options = [f"--checkpoint={tmp_path / 'chat'}", "--max-tokens=6", "--temperature=0"]
    command.main([*options, "--prompt=abcd"])
    plain = capsys.readouterr().out
    command.main([*options, "--chat", "--system=ab", "--prompt=cd"])
    assert capsys.readouterr().out == plain
    command.main([*options, "--chat", "--prompt=cd"])
    assert capsys.readouterr().out != plain


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint=/no/such"], "does not exist"),
        (["--temperature=-1"], "finite and >= 0, got -1.0"),
        (["--max-tokens=0"], "must be positive"),
        (["--batch-size=0"], "num_rows must be positive, got 0"),
        (["--chat"], "has no chat template"),
        (["--system=x"], "give --chat too"),
        (["--tensor-parallel=0"], "mesh.tensor must lie in"),
        (["--tensor-parallel=4"], "of size 2 does not divide"),
    ],
)
def test_a_bad_command_is_one_line(folder, arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main([f"--checkpoint={folder}", "--prompt=a", *arguments])
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.startswith("kanana_jax.generate: ")
    assert shown.count("\n") == 1


def test_a_mistake_of_ours_is_not_hidden(monkeypatch):
    def fail(*_):
        raise ValueError("ours")

    monkeypatch.setattr(command.command, "load", fail)
    with pytest.raises(ValueError, match="ours"):
        command.main(["--checkpoint=a", "--prompt=a"])


def test_weights_that_are_not_the_configs_are_one_line(folder):
    """Orbax would notice too, with a page and readers left behind."""
    cfg = dataclasses.replace(small_decoder.SHALLOW, hidden_size=64)
    with pytest.raises(CheckpointError, match=r"must have shape .* got"):
        native.restore(folder, native.abstract(cfg, jnp.float32))
