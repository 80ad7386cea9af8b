"""Tokenizers: UTF-8 bytes, byte-level BPE trained on the corpus, or a Hugging Face tokenizer.json.

A document of n tokens is stored as  BOS t_1 ... t_n EOS : the first token is predicted from BOS,
and predicting EOS is what ends a generation. Text that merely spells a special token
is encoded as text, except by `encode_marked`, which is for the output of a chat template.

`token_bytes` holds how many UTF-8 bytes each token stands for, 0 for special tokens, so that

    bits per byte = sum_t nll_t / (log 2 * sum_t token_bytes[target_t]).

It is exact for bytes and for byte-level BPE. For a tokenizer that normalises its text
(SentencePiece, WordPiece) it counts the bytes of the tokens' own spelling.
"""

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32

from kanana_jax.data import token_spelling
from kanana_jax.data.errors import DataError, first_line, listed

BOS, EOS = "<|bos|>", "<|eos|>"
_MAX_VOCAB = 2**24  # arrays are as long as the largest id

# Files that name BOS and EOS, beside a tokenizer.json; the first that does decides.
BESIDE = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "config.json",
)
# Names that show it where no file does: <s>, <bos>, <|begin_of_text|>, [EOS], </s>, <|endoftext|>.
_UNIT = r"[\W_]*of[\W_]*(text|sentence|sequence|document)\W*"
_BEGINS = re.compile(rf"<s>|\W*bos\W*|\W*(begin|start){_UNIT}", re.IGNORECASE)
_ENDS = re.compile(rf"</s>|\W*eos\W*|\W*end{_UNIT}", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Maps text to ids and back. `json` is the tokenizer.json; empty for bytes."""

    vocab_size: int
    bos_id: int | None  # None only where `from_json` was told not to look for one
    eos_id: int | None
    token_bytes_V: Int32[np.ndarray, "V"]
    encode_batch: Callable[[Sequence[bytes]], list[np.ndarray]]
    decode: Callable[[Sequence[int]], str]
    encode_marked: Callable[[str], list[int]]  # the ids of special tokens where they are spelled
    token_id: Callable[[str], int | None]  # of the token with this spelling, special or not
    decode_marked: Callable[[Sequence[int]], str]  # with the text of special tokens
    spelled: Callable[[int], bytes]  # the bytes of one token, which may be part of a character
    # The ids that the tokenizer.json puts before and after a text.
    around: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    json: str = ""
    # Whether `json` alone would give bos_id and eos_id.
    names_itself: bool = True

    def encode(self, text: str) -> Int32[np.ndarray, "N"]:
        """Ids of one text, without BOS and EOS."""
        return self.encode_batch([text.encode()])[0]

    def encode_documents(self, texts: Sequence[bytes]) -> list[Int32[np.ndarray, "N"]]:
        """Ids of each document between BOS and EOS."""
        bos, eos = np.array([[self.bos_id], [self.eos_id]], np.int32)
        return [np.concatenate([bos, ids, eos]) for ids in self.encode_batch(texts)]

    def is_text(self, index: int) -> bool:
        """Whether a token stands for text: it is neither special nor unused."""
        return index < len(self.token_bytes_V) and bool(self.token_bytes_V[index])

    def is_special(self, text: str) -> bool:
        """Whether `text` spells a token that `decode` leaves out."""
        token = self.token_id(text)
        return token is not None and not self.is_text(token)

    @property
    def digest(self) -> str:
        special = "" if self.names_itself else f" {self.bos_id} {self.eos_id}"
        content = (self.json or "bytes") + special
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


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
        token_id={BOS: 256, EOS: 257}.get,
        decode_marked=lambda ids: b"".join(map(_byte_spelled, ids)).decode(errors="replace"),
        spelled=_byte_spelled,
    )


def _byte_spelled(index: int) -> bytes:
    return {256: BOS, 257: EOS}.get(index, "").encode() if index > 255 else bytes([index])


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


def from_json(
    content: str,
    name: str,
    *,
    bos: str | int | None = None,
    eos: str | int | None = None,
    needs_ends: bool = True,
) -> Tokenizer:
    """Loads the content of a tokenizer.json; `name` is for the error. DataError if unusable.

    `bos` and `eos` are what the files beside it name, a token's text or id. Where they are None,
    the tokenizer's template of a document decides, then the names of its special tokens. A
    tokenizer with only one of the two has it at both ends. Without `needs_ends` it gets neither:
    the caller reads other files for them.
    """
    import tokenizers

    content = content.removeprefix("\ufeff")
    try:
        library, marking = (tokenizers.Tokenizer.from_str(content) for _ in range(2))
    except Exception as error:  # the library raises bare Exception
        raise DataError(
            f"data.tokenizer: {name} is no tokenizer.json that the tokenizers library can load "
            f"({first_line(error)})."
        ) from error
    largest = max(library.get_vocab().values(), default=0)
    if largest >= _MAX_VOCAB:
        raise DataError(
            f"data.tokenizer: expected ids below {_MAX_VOCAB:,} in {name}, got {largest:,}; the "
            "file is damaged."
        )
    for one in (library, marking):
        one.no_truncation()
        one.no_padding()
    library.encode_special_tokens = True  # means: as the text they spell
    own = _own_special_ids(library)
    named = (_id_of(library, bos, name), _id_of(library, eos, name))
    first, last = _at_both_ends(*(a if b is None else b for a, b in zip(own, named, strict=True)))
    if not needs_ends:
        first = last = None
    elif first is None or last is None:
        raise DataError(
            f"data.tokenizer: {name} needs a special token that ends a document, got "
            f"{listed(_special(library))}; put the model's {BESIDE[0]}, which names it, beside it."
        )
    marked = _special(library).values()
    for index in {first, last}:
        if index is not None and index not in marked:
            for one in (library, marking):
                one.add_special_tokens([library.id_to_token(index)])
    token_bytes_V = token_spelling.sizes(library)
    return Tokenizer(
        vocab_size=len(token_bytes_V),
        bos_id=first,
        eos_id=last,
        token_bytes_V=token_bytes_V,
        encode_batch=functools.partial(_encode_batch, library, name),
        decode=lambda ids: library.decode([int(i) for i in ids]),
        # Encoded first: the library raises TypeError where text is not Unicode.
        encode_marked=lambda text: (
            marking.encode(text.encode().decode(), add_special_tokens=False).ids
        ),
        token_id=library.token_to_id,
        decode_marked=lambda ids: library.decode([int(i) for i in ids], skip_special_tokens=False),
        spelled=token_spelling.spelling(library),
        around=_around(library),
        json=content,
        names_itself=_at_both_ends(*own) == (first, last),
    )


def _encode_batch(library: Any, name: str, texts: Sequence[bytes]) -> list[np.ndarray]:
    decoded = [text.decode() for text in texts]
    try:
        encodings = library.encode_batch_fast(decoded, add_special_tokens=False)
    except Exception as error:  # the library raises bare Exception
        raise DataError(
            f"data.tokenizer: {name} has no tokens for this text ({first_line(error)}); "
            "take another tokenizer."
        ) from error
    return [np.asarray(encoding.ids, np.int32) for encoding in encodings]


def special_tokens(beside: Mapping[str, bytes | None]) -> dict[str, Any]:
    """What the files BESIDE a tokenizer.json name, as `bos` and `eos` for `from_json`."""
    found: dict[str, str | int | None] = {"bos": None, "eos": None}
    for name in BESIDE:
        if None not in found.values():
            break
        fields = _fields(beside.get(name), name)
        for end, known in found.items():
            value = fields.get(f"{end}_token", fields.get(f"{end}_token_id"))
            value = value.get("content") if isinstance(value, dict) else value
            value = next(iter(value), None) if isinstance(value, list) else value
            if known is None and isinstance(value, str | int):
                found[end] = value
    return found


def _fields(content: bytes | None, name: str) -> dict[str, Any]:
    try:
        fields = json.loads(content.decode("utf-8-sig")) if content else {}
    except ValueError as error:
        raise DataError(
            f"data.tokenizer: expected JSON in {name}, got {first_line(error)}."
        ) from error
    return fields if isinstance(fields, dict) else {}


def _special(library: Any) -> dict[str, int]:
    added = sorted(library.get_added_tokens_decoder().items())
    return {token.content: index for index, token in added if token.special}


def _own_special_ids(library: Any) -> tuple[int | None, int | None]:
    """BOS and EOS by the tokenizer.json itself: its template, else its special tokens' names."""
    known = _special(library)
    bos = next((known[name] for name in known if _BEGINS.fullmatch(name)), None)
    eos = next((known[name] for name in known if _ENDS.fullmatch(name)), None)
    try:
        encoding = library.encode("a", add_special_tokens=True)
    except Exception:  # the library raises bare Exception; here: no token for this letter
        return bos, eos
    is_special = encoding.special_tokens_mask
    if not all(is_special):
        bos = encoding.ids[0] if is_special[0] else bos
        eos = encoding.ids[-1] if is_special[-1] else eos
    return bos, eos


def _id_of(library: Any, token: str | int | None, name: str) -> int | None:
    if token is None:
        return None
    index = library.token_to_id(token) if isinstance(token, str) else token
    if index is None or index < 0 or library.id_to_token(index) is None:
        raise DataError(
            f"data.tokenizer: expected in {name} the token {token!r}, which the files beside it "
            "name, got a vocabulary without it; put the model's own files there."
        )
    return index


def _at_both_ends(bos: int | None, eos: int | None) -> tuple[int | None, int | None]:
    return (eos if bos is None else bos), (bos if eos is None else eos)


def _around(library: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that the post-processor puts before and after a text."""
    try:
        encoding = library.encode("a")
    except Exception:  # the library raises bare Exception; here: no token for this letter
        return (), ()
    num_before = (*encoding.special_tokens_mask, 0).index(0)
    num_inside = encoding.special_tokens_mask.count(0)
    ids = tuple(encoding.ids)
    return ids[:num_before], ids[num_before + num_inside :]
