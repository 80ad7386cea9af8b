"""BOS and EOS as a folder's own files name them, and what they put around a prompt."""

import json
import tempfile
from pathlib import Path

import hypothesis
import pytest
import tokenizers
from hypothesis import strategies as st
from tokenizers import models, processors

from kanana_jax.checkpoint import CheckpointError
from kanana_jax.data import tokenizer
from kanana_jax.generate import chat, special_tokens
from kanana_jax.generate.special_tokens import SpecialTokens
from kanana_jax.weights import run_folder

BAR, BLANK = "\uff5c", "\u2581"
BEGIN, END = (f"<{BAR}{word}{BLANK}of{BLANK}sentence{BAR}>" for word in ("begin", "end"))
SPECIAL = [BEGIN, END, "[gMASK]", "<sop>"]  # ids 2 to 5
TOKEN = {"__type": "AddedToken", "content": END, "lstrip": False}


def _json(template=None):
    library = tokenizers.Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    library.add_special_tokens(SPECIAL)
    if template:
        pairs = [(one, library.token_to_id(one)) for one in SPECIAL]
        library.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=pairs
        )
    return library.to_str()


def _read(files, *, config=(), template=None, folder):
    for name, fields in files.items():
        (folder / name).write_text(json.dumps(fields), encoding="utf-8-sig")
    used = tokenizer.from_json(_json(template), "t", needs_ends=False)
    return special_tokens.read(folder, dict(config), used, 6)


CONFIG, GENERATION = "tokenizer_config.json", "generation_config.json"
READ = {  # files, config.json, template of tokenizer.json: what they say
    "nothing": ({}, {}, None, (None, (), (), ())),
    "ids": ({}, {"bos_token_id": 2, "eos_token_id": 3}, None, (2, (3,), (), ())),
    "ids_in_a_list": ({}, {"eos_token_id": [3, 5]}, None, (None, (3, 5), (), ())),
    "generation_first": (
        {GENERATION: {"eos_token_id": [5, 3], "bos_token_id": 4}},
        {"bos_token_id": 2, "eos_token_id": 3},
        None,
        (2, (5, 3), (), ()),
    ),
    "generation_alone": (
        {GENERATION: {"eos_token_id": 5, "bos_token_id": 4}},
        {},
        None,
        (4, (5,), (), ()),
    ),
    "null_names_none": (
        {GENERATION: {"eos_token_id": None}},
        {"eos_token_id": 3},
        None,
        (None, (3,), (), ()),
    ),
    "text": ({CONFIG: {"bos_token": BEGIN, "eos_token": TOKEN}}, {}, None, (2, (3,), (), ())),
    "text_before_ids_of_bos": (
        {CONFIG: {"bos_token": BEGIN, "eos_token": END}},
        {"bos_token_id": 4, "eos_token_id": 5},
        None,
        (2, (5,), (), ()),
    ),
    "older_file": (
        {"special_tokens_map.json": {"bos_token": BEGIN, "eos_token": {"content": END}}},
        {},
        None,
        (2, (3,), (), ()),
    ),
    "no_bos_said": ({CONFIG: {"bos_token": None}}, {"bos_token_id": 2}, None, (None, (), (), ())),
    "add_bos": ({CONFIG: {"bos_token": BEGIN, "add_bos_token": True}}, {}, None, (2, (), (2,), ())),
    "add_bos_by_id": (
        {CONFIG: {"add_bos_token": True}},
        {"bos_token_id": 2},
        None,
        (2, (), (2,), ()),
    ),
    "processor": ({CONFIG: {"bos_token": BEGIN}}, {}, f"{BEGIN} $A {END}", (2, (), (2,), (3,))),
    "processor_of_two": ({}, {"eos_token_id": 3}, "[gMASK] <sop> $A", (None, (3,), (4, 5), ())),
    "both_add_it_once": (
        {CONFIG: {"bos_token": BEGIN, "add_bos_token": True}},
        {},
        f"{BEGIN} $A",
        (2, (), (2,), ()),
    ),
    "add_bos_false": (
        {CONFIG: {"bos_token": BEGIN, "add_bos_token": False}},
        {},
        f"{BEGIN} <sop> $A",
        (2, (), (5,), ()),
    ),
    "add_bos_null": (
        {CONFIG: {"bos_token": BEGIN, "add_bos_token": None}},
        {},
        f"{BEGIN} $A",
        (2, (), (2,), ()),
    ),
    "unknown_text_beside_an_id": (
        {CONFIG: {"bos_token": "<s>", "eos_token": "</s>"}},
        {"bos_token_id": 2, "eos_token_id": 3},
        None,
        (2, (3,), (), ()),
    ),
}


@pytest.mark.parametrize("name", READ)
def test_special_tokens_are_those_that_the_files_name(name, tmp_path):
    files, config, template, want = READ[name]
    assert _read(files, config=config, template=template, folder=tmp_path) == SpecialTokens(*want)


def test_a_prompt_is_what_the_tokenizers_library_makes_of_it(tmp_path):
    content = _json(f"[gMASK] <sop> $A {END}")
    used = tokenizer.from_json(content, "t", needs_ends=False)
    special = special_tokens.read(tmp_path, {}, used, 6)
    want = tokenizers.Tokenizer.from_str(content).encode("abba").ids
    assert [*special.before, *used.encode("abba"), *special.after] == want


def test_a_tokenizer_with_ends_of_its_own_begins_with_bos(tmp_path):
    """One of bytes, or trained here: in training, documents lay between BOS and EOS."""
    used = tokenizer.byte_tokenizer()
    assert special_tokens.read(tmp_path, {}, used, 258) == (256, (257,), (256,), ())
    config = {"bos_token_id": None, "eos_token_id": 3}
    assert special_tokens.read(tmp_path, config, used, 258) == (None, (3,), (), ())


def test_a_tokenizer_trained_here_is_described_as_it_was_used(tmp_path):
    bpe = tokenizer.train_bpe([b"abba"] * 3, 258)
    said = run_folder.tokenizer_config(json.loads(bpe.json))
    (tmp_path / CONFIG).write_text(json.dumps(said))
    used = tokenizer.from_json(bpe.json, "t", needs_ends=False)
    want = (bpe.bos_id, (bpe.eos_id,), (bpe.bos_id,), ())
    assert special_tokens.read(tmp_path, {}, used, 258) == want


BAD = {
    "id_of_no_token": ({GENERATION: {"eos_token_id": 6}}, "must be a token's id below 6"),
    "negative_id": ({GENERATION: {"eos_token_id": [-1]}}, "must be a token's id below 6"),
    "no_id": ({GENERATION: {"eos_token_id": True}}, "must be a token's id below 6"),
    "unknown_end": ({CONFIG: {"eos_token": "</s>"}}, "which the tokenizer does not have"),
    "unknown_beginning": (
        {CONFIG: {"bos_token": "<s>", "add_bos_token": True}},
        "which the tokenizer does not have",
    ),
    "no_beginning": ({CONFIG: {"add_bos_token": True}}, "no file names the token"),
    "no_truth_value": ({CONFIG: {"add_bos_token": "yes"}}, "must be true or false, got 'yes'"),
    "no_object": ({CONFIG: [1]}, "expected a JSON object"),
}


@pytest.mark.parametrize("name", BAD)
def test_names_of_no_token_are_refused(name, tmp_path):
    files, message = BAD[name]
    with pytest.raises(CheckpointError, match=message):
        _read(files, folder=tmp_path)


garbage = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)


@hypothesis.given(
    st.sampled_from([CONFIG, GENERATION, "special_tokens_map.json", "chat_template.json"]),
    st.sampled_from(["bos_token", "eos_token", "bos_token_id", "eos_token_id", "add_bos_token"])
    | st.just("chat_template"),
    garbage | st.lists(st.dictionaries(st.sampled_from(["name", "template"]), garbage), max_size=2),
)
@hypothesis.settings(deadline=None, max_examples=150)
def test_a_wrong_value_is_one_line_or_changes_nothing(file, field, value):
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / file).write_text(json.dumps({field: value}))
        try:
            _read({}, folder=Path(name))
            chat.load(Path(name))
        except CheckpointError as error:
            assert len(str(error).splitlines()) == 1
