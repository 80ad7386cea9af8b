"""The tokenizer in a GGUF file as tokenizer.json and the files next to it.

Only byte-level BPE. The file names the rule that cuts text into words before merges but does not
define it. Known names are listed here, and others are refused.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from kanana_jax.checkpoint.errors import CheckpointError, shown
from kanana_jax.weights import byte_level_bpe

_CONTROL, _USER_DEFINED = 3, 4  # of token_type
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class _Words(NamedTuple):
    """How text is cut, as `byte_level_bpe.tokenizer_json` takes it."""

    steps: tuple[dict[str, Any], ...] = ()
    has_gpt2_rule: bool = True  # after them
    is_whole_word_first: bool = False  # a word that is a token is not merged
    adds_bos: bool = False  # where the file does not say


_PRE = {
    "gpt-2": _Words(),
    "smollm": _Words(({"type": "Digits", "individual_digits": True},)),
    "llama-bpe": _Words(
        (byte_level_bpe.split_by(_WORDS.format(digits="{1,3}")),), False, True, True
    ),
    "qwen2": _Words((byte_level_bpe.split_by(_WORDS.format(digits="")),), False),
}


def ids(metadata: dict[str, Any]) -> dict[str, Any]:
    """The fields of a config.json that name special tokens."""
    names = {"bos": "bos_token_id", "eos": "eos_token_id", "padding": "pad_token_id"}
    found = {
        theirs: metadata.get(f"tokenizer.ggml.{name}_token_id") for name, theirs in names.items()
    }
    ends = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    found["eos_token_id"] = list(dict.fromkeys(one for one in ends if one is not None))
    return {name: value for name, value in found.items() if value not in (None, [])}


def files(source: Path, metadata: dict[str, Any]) -> dict[str, str]:
    """Texts of files by name; raises CheckpointError on a tokenizer of another kind."""
    if metadata.get("tokenizer.ggml.model") != "gpt2":
        raise CheckpointError(
            f"{source}: expected tokenizer.ggml.model 'gpt2', byte-level BPE, got "
            f"{shown(metadata.get('tokenizer.ggml.model'))}; no other can be read"
        )
    words = _PRE.get(metadata.get("tokenizer.ggml.pre", ""))
    if words is None:
        raise CheckpointError(
            f"{source}: expected tokenizer.ggml.pre to be one of {', '.join(_PRE)}, got "
            f"{shown(metadata.get('tokenizer.ggml.pre'))}"
        )
    lacking = [name for name in ("tokens", "merges") if f"tokenizer.ggml.{name}" not in metadata]
    if lacking:
        raise CheckpointError(f"{source} lacks tokenizer.ggml.{lacking[0]}")
    tokens = metadata["tokenizer.ggml.tokens"]
    kinds = metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))
    found = {"tokenizer.json": _tokenizer(words, tokens, kinds, metadata)}
    about = _texts_of_ids(tokens, metadata)
    adds_bos = words.adds_bos and "bos_token" in about
    about["add_bos_token"] = metadata.get("tokenizer.ggml.add_bos_token", adds_bos)
    if "tokenizer.chat_template" in metadata:
        about["chat_template"] = metadata["tokenizer.chat_template"]
    found["tokenizer_config.json"] = json.dumps(about, indent=2)
    found["generation_config.json"] = json.dumps(ids(metadata), indent=2)
    return found


def _texts_of_ids(tokens: list[str], metadata: dict[str, Any]) -> dict[str, Any]:
    names = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token"}
    found = {}
    for name, theirs in names.items():
        number = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if number is not None and number < len(tokens):
            found[theirs] = tokens[number]
    return found


def _tokenizer(words: _Words, tokens: list[str], kinds: list[int], metadata: dict[str, Any]) -> str:
    added = [
        byte_level_bpe.added_token(number, token, is_special=kind == _CONTROL)
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    return byte_level_bpe.tokenizer_json(
        {token: number for number, token in enumerate(tokens)},
        metadata["tokenizer.ggml.merges"],
        added,
        words.steps,
        has_gpt2_rule=words.has_gpt2_rule,
        is_whole_word_first=words.is_whole_word_first,
        adds_space=bool(metadata.get("tokenizer.ggml.add_space_prefix", False)),
    )
