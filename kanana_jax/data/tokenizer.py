"""Tokenizers: UTF-8 bytes, byte-level BPE trained on the corpus, or a Hugging Face tokenizer.json.

A document of n tokens is stored as  BOS t_1 ... t_n EOS : the first token is predicted from BOS,
and predicting EOS is what ends a generation. Text that merely spells a special token
is encoded as text, except by `encode_marked`, which is for what a chat template has written.

`token_bytes` holds the UTF-8 bytes each token stands for, 0 for special tokens, so that

    bits per byte = sum_t nll_t / (log 2 * sum_t token_bytes[target_t]).

It is exact for bytes and for byte-level BPE. For a tokenizer that normalises its text
(SentencePiece, WordPiece) it counts the bytes of the tokens' own spelling.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from kanana_jax.data.errors import DataError

BOS, EOS = "<|bos|>", "<|eos|>"
# What published tokenizers call the two; the first that exists is used.
_BOS_NAMES = (BOS, "<|begin_of_text|>", "[BOS]", "<s>", "<bos>", "<|startoftext|>", "[CLS]")
_EOS_NAMES = (EOS, "<|end_of_text|>", "[EOS]", "</s>", "<eos>", "<|endoftext|>", "[SEP]")


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Maps text to ids and back. `json` is the tokenizer.json; empty for bytes."""

    vocab_size: int
    bos_id: int
    eos_id: int
    token_bytes_V: Int32[np.ndarray, "V"]
    encode_batch: Callable[[Sequence[bytes]], list[np.ndarray]]
    decode: Callable[[Sequence[int]], str]
    encode_marked: Callable[[str], list[int]]  # the ids of special tokens where they are spelled
    json: str = ""

    def encode(self, text: str) -> Int32[np.ndarray, "N"]:
        """Ids of one text, without BOS and EOS."""
        return self.encode_batch([text.encode()])[0]

    def encode_documents(self, texts: Sequence[bytes]) -> list[Int32[np.ndarray, "N"]]:
        """Ids of each document between BOS and EOS."""
        bos, eos = np.array([[self.bos_id], [self.eos_id]], np.int32)
        return [np.concatenate([bos, ids, eos]) for ids in self.encode_batch(texts)]

    @property
    def digest(self) -> str:
        return hashlib.blake2b((self.json or "bytes").encode(), digest_size=16).hexdigest()


def byte_tokenizer() -> Tokenizer:
    """Ids 0..255 are bytes, 256 is BOS, 257 is EOS."""
    token_bytes = np.ones(258, np.int32)
    token_bytes[256:] = 0
    return Tokenizer(
        vocab_size=258,
        bos_id=256,
        eos_id=257,
        token_bytes_V=token_bytes,
        encode_batch=lambda texts: [np.frombuffer(t, np.uint8).astype(np.int32) for t in texts],
        decode=lambda ids: bytes(i for i in ids if i < 256).decode("utf-8", errors="replace"),
        encode_marked=_encode_marked_bytes,
    )


def _encode_marked_bytes(text: str) -> list[int]:
    marks = {BOS: [256], EOS: [257]}
    parts = re.split(f"({re.escape(BOS)}|{re.escape(EOS)})", text)
    return [i for part in parts for i in marks.get(part, part.encode())]


def train_bpe(texts: Iterable[bytes], vocab_size: int) -> Tokenizer:
    """Trains byte-level BPE; the same texts in the same order give the same tokenizer."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    smallest = len(alphabet) + 2
    if vocab_size < smallest:
        raise DataError(
            f"data.bpe_vocab_size must be at least {smallest}, the bytes and two special tokens; "
            f"got {vocab_size}."
        )
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    bpe.train_from_iterator((text.decode() for text in texts), trainer)
    return from_json(bpe.to_str(), "bpe")


def from_json(content: str, name: str) -> Tokenizer:
    """Loads the content of a tokenizer.json; `name` is for the error. DataError if unusable."""
    import tokenizers

    try:
        library = tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the library raises bare Exception
        raise DataError(
            f"data.tokenizer: {name} is no tokenizer.json that the tokenizers library can load "
            f"({str(error).splitlines()[0]})."
        ) from error
    library.no_truncation()
    library.no_padding()
    marking = tokenizers.Tokenizer.from_str(library.to_str())
    library.encode_special_tokens = True  # means: as the text they spell
    bos, eos = _special_ids(library, name)
    token_bytes = _token_bytes(library)
    return Tokenizer(
        vocab_size=len(token_bytes),
        bos_id=bos,
        eos_id=eos,
        token_bytes_V=token_bytes,
        encode_batch=lambda texts: [
            np.asarray(encoding.ids, np.int32)
            for encoding in library.encode_batch_fast(
                [text.decode() for text in texts], add_special_tokens=False
            )
        ],
        decode=lambda ids: library.decode([int(i) for i in ids]),
        encode_marked=lambda text: (
            marking.encode(
                text.encode().decode(),  # raises UnicodeError as `encode` does
                add_special_tokens=False,
            ).ids
        ),
        json=content,
    )


def _special_ids(library, name: str) -> tuple[int, int]:
    known = {
        token.content: index
        for index, token in library.get_added_tokens_decoder().items()
        if token.special
    }
    bos = next((known[name] for name in _BOS_NAMES if name in known), None)
    eos = next((known[name] for name in _EOS_NAMES if name in known), None)
    first = eos if bos is None else bos
    last = bos if eos is None else eos
    if first is None or last is None:
        raise DataError(
            f"data.tokenizer: {name} needs a special token that ends a document, one of "
            f"{', '.join(_EOS_NAMES)}; got {', '.join(known) or 'no special token'}."
        )
    return first, last


def _token_bytes(library) -> Int32[np.ndarray, "V"]:
    vocab = library.get_vocab(with_added_tokens=True)
    added = library.get_added_tokens_decoder()
    # In a byte-level vocabulary each character is one byte (GPT-2's printable alphabet).
    decoder = json.dumps(json.loads(library.to_str())["decoder"])
    spelled_bytes = len if '"ByteLevel"' in decoder else _spelled_bytes
    sizes = np.zeros(max(vocab.values()) + 1, np.int32)
    for token, index in vocab.items():
        if index not in added:
            sizes[index] = spelled_bytes(token)
        elif not added[index].special:
            sizes[index] = len(token.encode())
    return sizes


def _spelled_bytes(token: str) -> int:
    if re.fullmatch("<0x[0-9A-F]{2}>", token):
        return 1
    return len(token.replace("\u2581", " ").removeprefix("##").encode())
