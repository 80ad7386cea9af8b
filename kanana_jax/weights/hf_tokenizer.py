"""The tokenizer.json of a folder, if it can belong to the folder's model."""

import json
from pathlib import Path
from typing import Any

from kanana_jax.checkpoint.errors import CheckpointError
from kanana_jax.weights import hf_files, tiktoken_file

NAME = "tokenizer.json"
# A larger vocabulary is not one of bytes; models of bytes have no such file.
_MAX_BYTE_VOCAB = 512


def read(directory: Path, vocab_size: int) -> str | None:
    """Its tokenizer.json, made from a tiktoken.model where there is only that; None for bytes.

    Raises CheckpointError where there is none, and where its ids are not the model's.
    """
    path = directory / NAME
    if tiktoken_file.is_needed(directory):
        text = tiktoken_file.tokenizer_json(directory)
        content = json.loads(text)
    elif path.exists():
        text, content = hf_files.read_text(path), hf_files.read_json(path)
    elif vocab_size > _MAX_BYTE_VOCAB:
        raise CheckpointError(
            f"expected {path}, which does not exist: {vocab_size} tokens are not bytes; write the "
            f"model's tokenizer there in this form, or as {tiktoken_file.NAME}"
        )
    else:
        return None
    ids = [*_ids(content.get("model")), *_added(content.get("added_tokens") or [])]
    if not ids or not all(type(one) is int and one >= 0 for one in ids):
        raise CheckpointError(
            f"{path} is no tokenizer.json that can be read: expected a vocabulary with an id for "
            "each token"
        )
    if max(ids) >= vocab_size:
        raise CheckpointError(
            f"{directory}: the tokenizer has ids up to {max(ids)}, but vocab_size is {vocab_size}; "
            "put the model's own tokenizer.json there"
        )
    return text


def _ids(model: Any) -> list[Any]:
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, list):  # of pairs with a score, in the order of ids
        return [*range(len(vocab))]
    return [*vocab.values()] if isinstance(vocab, dict) else [None]


def _added(tokens: Any) -> list[Any]:
    known = tokens if isinstance(tokens, list) else [tokens]
    return [one.get("id") if isinstance(one, dict) else None for one in known]
