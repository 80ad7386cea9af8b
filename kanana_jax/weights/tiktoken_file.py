"""A tiktoken.model, as Kimi K2's folders have it, as the tokenizer.json that others read.

    tiktoken.model            a line each: base64 of a token's bytes, and its rank
    tokenization_*.py         pat_str, the pattern that cuts text into words; read, never run
    tokenizer_config.json     added_tokens_decoder: the special tokens by id

Tiktoken joins the neighbours in a word whose joined bytes have the lowest rank. So each pair of
tokens that make up a token is a merge, in the order of the token that they make up.
"""

import ast
import base64
import binascii
from pathlib import Path
from typing import Any

from kanana_jax.checkpoint.errors import CheckpointError, shown
from kanana_jax.weights import byte_level_bpe, hf_files

NAME = "tiktoken.model"


def is_needed(directory: Path) -> bool:
    return (directory / NAME).exists() and not (directory / "tokenizer.json").exists()


def tokenizer_json(directory: Path) -> str:
    """Raises CheckpointError where one of the files is absent or unusable."""
    ranks = _ranks(directory / NAME)
    letters = _letters()

    def spelled(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    merges = [
        f"{spelled(token[:size])} {spelled(token[size:])}"
        for token in sorted(ranks, key=ranks.__getitem__)
        for size in range(1, len(token))
        if token[:size] in ranks and token[size:] in ranks
    ]
    return byte_level_bpe.tokenizer_json(
        {spelled(token): rank for token, rank in ranks.items()},
        merges,
        _added_tokens(directory, len(ranks)),
        [byte_level_bpe.split_by(_pattern(directory))],
        has_gpt2_rule=False,
        is_whole_word_first=True,
    )


def _ranks(path: Path) -> dict[bytes, int]:
    found = {}
    for number, line in enumerate(hf_files.read_text(path).splitlines(), start=1):
        try:
            token, rank = line.split()
            found[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise CheckpointError(
                f"{path}, line {number}: expected base64 and a rank, got {shown(line)}"
            ) from None
    has_bytes = all(bytes([byte]) in found for byte in range(256))
    if not has_bytes or sorted(found.values()) != list(range(len(found))):
        raise CheckpointError(
            f"{path}: expected every byte, and each rank from 0 on once; copy it again"
        )
    return found


def _letters() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary, GPT-2's."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return [chr(byte if byte in printed else 256 + others.index(byte)) for byte in range(256)]


def _pattern(directory: Path) -> str:
    for path in sorted(directory.glob("tokenization_*.py")):
        try:
            tree = ast.parse(hf_files.read_text(path))
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and _is_named(node.targets, "pat_str"):
                pattern = _literal(node.value)
                if pattern is not None:
                    return pattern
    raise CheckpointError(
        f"{directory}: expected pat_str, how text is cut into words, as a literal in a "
        f"tokenization_*.py beside {NAME}; put the model's own file there"
    )


def _is_named(targets: list[ast.expr], name: str) -> bool:
    return any(isinstance(one, ast.Name) and one.id == name for one in targets)


def _literal(node: ast.expr) -> str | None:
    """The text of a literal, or of "|".join of a list of them."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Constant(str(between)), attr="join"), args=[x]):
            try:
                return between.join(ast.literal_eval(x))
            except (ValueError, TypeError):
                return None
    return None


def _added_tokens(directory: Path, first: int) -> list[dict[str, Any]]:
    """The special tokens, which have the ids from `first` on.

    Ids between them without a name are called reserved, as in the model's own code.
    """
    path = directory / "tokenizer_config.json"
    named = hf_files.read_json_if_there(path).get("added_tokens_decoder", {})
    try:
        found = {int(number): str(token["content"]) for number, token in named.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"{path}: added_tokens_decoder must have a token's content by its id"
        ) from None
    if found and min(found) < first:
        raise CheckpointError(
            f"{path}: special tokens must have ids from {first} on, behind those of {NAME}; got "
            f"{min(found)}"
        )
    return [
        byte_level_bpe.added_token(
            number, found.get(number, f"<|reserved_token_{number}|>"), is_special=True
        )
        for number in range(first, max(found, default=first - 1) + 1)
    ]
