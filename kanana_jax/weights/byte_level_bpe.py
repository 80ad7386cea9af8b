"""The tokenizer.json of a byte-level BPE tokenizer, made from other formats."""

import json
from collections.abc import Sequence
from typing import Any


def split_by(pattern: str) -> dict[str, Any]:
    """A step that cuts text where the pattern matches."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def added_token(number: int, content: str, *, is_special: bool) -> dict[str, Any]:
    """A token that is found before text is cut.

    A token outside the vocabulary follows it, in list order, whatever its number.
    """
    return {
        "id": number,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": is_special,
    }


def tokenizer_json(
    vocab: dict[str, int],
    merges: Sequence[str],
    added_tokens: Sequence[dict[str, Any]],
    steps: Sequence[dict[str, Any]],
    *,
    has_gpt2_rule: bool,
    is_whole_word_first: bool,
    adds_space: bool = False,
) -> str:
    """`steps` cut text into words, and then GPT-2's pattern does if `has_gpt2_rule`.

    With `is_whole_word_first` a word that is a token is that token, whatever the merges.
    """
    of_bytes = {"type": "ByteLevel", "add_prefix_space": adds_space, "trim_offsets": True}
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": list(added_tokens),
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [*steps, of_bytes | {"use_regex": has_gpt2_rule}],
            },
            "post_processor": None,
            "decoder": of_bytes,
            "model": {
                "type": "BPE",
                "ignore_merges": is_whole_word_first,
                "vocab": vocab,
                "merges": list(merges),
            },
        }
    )
