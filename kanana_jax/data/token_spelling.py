"""The bytes that the tokens of a tokenizer.json stand for."""

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int32


def sizes(library: Any) -> Int32[np.ndarray, "V"]:
    """How many bytes each token stands for; 0 for special tokens."""
    vocab = library.get_vocab(with_added_tokens=True)
    added = library.get_added_tokens_decoder()
    # In a byte-level vocabulary each character is one byte.
    spelled_bytes = len if _is_byte_level(library) else lambda token: len(_spelled(token))
    found = np.zeros(max(vocab.values(), default=-1) + 1, np.int32)
    for token, index in vocab.items():
        if index not in added:
            found[index] = spelled_bytes(token)
        elif not added[index].special:
            found[index] = len(token.encode())
    return found


def spelling(library: Any) -> Callable[[int], bytes]:
    """Gives the bytes of a token: the text of a special one, none for an unused id."""
    added = library.get_added_tokens_decoder()
    byte_of = _byte_alphabet() if _is_byte_level(library) else {}

    def spelled(index: int) -> bytes:
        token = library.id_to_token(index)
        if token is None or index in added:
            return (token or "").encode()
        if byte_of:
            return b"".join(byte_of[one] if one in byte_of else one.encode() for one in token)
        return _spelled(token)

    return spelled


def _is_byte_level(library: Any) -> bool:
    return '"ByteLevel"' in json.dumps(json.loads(library.to_str())["decoder"])


def _byte_alphabet() -> dict[str, bytes]:
    """GPT-2's: printable bytes are themselves, the others are characters from 256 on, in order."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = (byte for byte in range(256) if byte not in printable)
    found = {chr(byte): bytes([byte]) for byte in printable}
    return found | {chr(256 + place): bytes([byte]) for place, byte in enumerate(others)}


def _spelled(token: str) -> bytes:
    if re.fullmatch("<0x[0-9A-F]{2}>", token):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").removeprefix("##").encode()
