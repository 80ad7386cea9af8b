"""Ids by a converted tiktoken.model against tiktoken's own rule, written down slowly."""

import base64
import json
import re

import numpy as np
import pytest

from kanana_jax.checkpoint import CheckpointError
from kanana_jax.data import tokenizer
from kanana_jax.weights import tiktoken_file

# Latin and Hangul words apart, numbers by three, spaces with what follows, as Kimi K2's does.
CODE = """
class TikTokenTokenizer:
    pat_str = "|".join([r"[\\p{Hangul}]+", r" ?[\\p{L}&&[^\\p{Hangul}]]+", r"[0-9]{1,3}", r"\\s+"])
"""
WORDS = re.compile(r"[\uac00-\ud7a3]+| ?[a-z]+|[0-9]{1,3}|\s+")
JOINED = [
    "cb",
    "ab",
    "bc",
    "abc",
    " a",
    " ab",
    "12",
    "123",
    "cab",
    "\n\n",
    "\ud55c",
    "\ud55c\uad6d",
]
JOINED += ["\uad6d", "abcabc"]


def _parts(tokens: list[bytes]) -> list[bytes]:
    """Beginnings of the bytes of a character, without which no merge would come to it."""
    return [token[:2] for token in tokens if len(token) > 2 and token[0] > 127]


def write(folder):
    joined = [token.encode() for token in JOINED]
    singles = [bytes([byte]) for byte in np.random.default_rng(0).permutation(256)]
    order = dict.fromkeys([*singles, *_parts(joined), *joined])
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(order)]
    folder.mkdir()
    (folder / "tiktoken.model").write_text("\n".join(lines) + "\n")
    (folder / "tokenization_kimi.py").write_text(CODE)
    named = {str(len(order) + 3): {"content": "[EOS]", "special": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": named}))
    return folder, {token: rank for rank, token in enumerate(order)}


def by_ranks(text: str, ranks: dict[bytes, int]) -> list[int]:
    found = []
    for word in WORDS.findall(text):
        parts = [bytes([byte]) for byte in word.encode()]
        if word.encode() in ranks:
            parts = [word.encode()]
        while pairs := [
            (ranks[parts[i] + parts[i + 1]], i)
            for i in range(len(parts) - 1)
            if parts[i] + parts[i + 1] in ranks
        ]:
            _, at = min(pairs)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        found += [ranks[part] for part in parts]
    return found


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder, ranks = write(tmp_path_factory.mktemp("tiktoken") / "hf")
    content = tiktoken_file.tokenizer_json(folder)
    return tokenizer.from_json(content, "converted", needs_ends=False), ranks


def test_ids_are_those_of_tiktokens_rule(converted):
    used, ranks = converted
    rng = np.random.default_rng(1)
    letters = ["a", "b", "c", " ", "1", "2", "3", "\n", "\ud55c", "\uad6d", "\uc5b4"]
    for _ in range(200):
        text = "".join(rng.choice(letters, rng.integers(1, 30)))
        assert used.encode_marked(text) == by_ranks(text, ranks), repr(text)
        assert used.decode(used.encode_marked(text)) == text


def test_special_tokens_have_the_ids_of_the_files(converted):
    used, ranks = converted
    assert used.encode_marked("ab[EOS]") == [ranks[b"ab"], len(ranks) + 3]
    assert used.vocab_size == len(ranks) + 4


def _edit(folder, name, old, new):
    path = folder / name
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("tokenization_kimi.py", "pat_str", "other", "expected pat_str, how text is cut"),
        ("tokenization_kimi.py", 'r"\\s+"', "compute()", "expected pat_str, how text is cut"),
        ("tiktoken.model", " 7\n", " seven\n", "line 8: expected base64 and a rank"),
        ("tiktoken.model", " 7\n", " 8\n", "every byte, and each rank from 0 on once"),
        ("tokenizer_config.json", '"content"', '"text"', "added_tokens_decoder must have"),
        ("tokenizer_config.json", '{"2', '{"-2', "special tokens must have ids from 2"),
    ],
)
def test_files_that_cannot_be_used_are_named(name, old, new, message, tmp_path):
    folder, _ = write(tmp_path / "hf")
    _edit(folder, name, old, new)
    with pytest.raises(CheckpointError, match=message):
        tiktoken_file.tokenizer_json(folder)
