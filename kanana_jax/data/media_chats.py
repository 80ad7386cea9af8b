"""Conversations with images or sounds, otherwise as in `data.conversations`: a record is

    {"messages": [{"role": "user", "content": [{"type": "image", "path": "a.png"},
                                               {"type": "text", "text": "sum?"}]},
                  {"role": "assistant", "content": "86"}]}

A path names a file beside the record's file; the medium says how a record itself gives content.
Each image or sound is decoded once while records are read. If one cannot be used, its conversation
is left out, which is counted and never ends a run. How many positions each takes depends on the
model's encoder, see `media_documents`.
"""

import functools
import hashlib
import pathlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from kanana_jax.config import DataConfig
from kanana_jax.data import (
    cache_files,
    chat,
    conversations,
    examples,
    files,
    inserted,
    jsonl,
    records,
)
from kanana_jax.data.chat import Piece, reasoning
from kanana_jax.data.errors import DataError
from kanana_jax.data.sources import Skipped
from kanana_jax.data.tokenizer import Tokenizer
from kanana_jax.data.wanted_tokenizer import wanted_tokenizer


class Medium(NamedTuple):
    """What conversations have besides text."""

    name: str  # "image": the type of a part with a path
    embedded: str  # the type of a part that holds its content, and the key of that content
    mark: str
    # The content of a part's value under `embedded`; raises `error`, as `size_of` does.
    content_of: Callable[[Any], bytes]
    size_of: Callable[[bytes], tuple[int, ...]]  # decodes it; the size decides its room
    error: type[DataError]


class Attachment(NamedTuple):
    """An image or sound that was decoded once. `read` gives the content of its file again."""

    read: Callable[[], bytes]
    digest: bytes
    size: tuple[int, ...]


class Chat(NamedTuple):
    pieces: tuple[Piece, ...]
    attachments: tuple[Attachment, ...]  # one for each mark
    key: bytes  # decides the side
    source: int
    where: str


@dataclass(frozen=True, kw_only=True, eq=False)
class MediaChats:
    """Conversations that were read and found usable."""

    medium: Medium
    names: tuple[str, ...]
    format: chat.Format
    tokenizer: Tokenizer
    chats: tuple[Chat, ...]
    is_heldout: tuple[bool, ...]
    digest: str  # equal if and only if every text, attachment, side and the tokenizer are
    num_skipped: int

    @property
    def fingerprint(self) -> str:
        return self.digest

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    def describe(self) -> str:
        count = sum(len(one.attachments) for one in self.chats)
        return (
            f"{len(self.names)} source(s), {len(self.chats):,} conversations with {count:,} "
            f"{self.medium.name}s, {sum(self.is_heldout):,} held out"
        )

    def open(self) -> Self:
        return self


def read(
    medium: Medium,
    cfg: DataConfig,
    cache_dir: pathlib.Path,
    report: Callable[[str], None] = lambda line: None,
) -> MediaChats:
    """Reads and checks the conversations of `cfg` and all that they hold, and writes nothing.

    `report` is told what was left out of each source. A DataError names file and line.
    """
    if not cfg.paths:
        raise DataError(
            f"data.paths: expected .jsonl files of conversations with {medium.name}s, got none; "
            "there is no default."
        )
    fmt, found, sides, num_skipped = chat.chosen(cfg), [], [], 0
    kind = examples.Kind(
        name="conversations",
        keys="conversations",
        num_segments=1,
        format=fmt,
        parse=lambda record: (),
    )
    for source, entry in enumerate(cfg.paths):
        skipped = Skipped()
        here = [*_of_source(medium, entry, source, cfg, fmt, skipped)]
        hashes = [hashlib.blake2b(one.key, digest_size=8).digest() for one in here]
        hash_N = np.array([*map(int.from_bytes, hashes)], np.uint64)
        sides += examples.heldout_of_source(
            hash_N, cfg.heldout_fraction, entry, skipped, kind
        ).tolist()
        found += here
        num_skipped += skipped.count
        if skipped.count:
            report(f"{entry}: {skipped.describe()}")
    wanted = wanted_tokenizer(cfg)
    texts = (
        piece.text.replace(medium.mark, "").encode()
        for one, is_heldout in zip(found, sides, strict=True)
        for piece in one.pieces
        if not is_heldout
    )
    used = wanted.make(texts)
    content = [(one.pieces, [x.digest for x in one.attachments], one.source) for one in found]
    return MediaChats(
        medium=medium,
        names=cfg.paths,
        format=fmt,
        tokenizer=used,
        chats=tuple(found),
        is_heldout=tuple(sides),
        digest=cache_files.digest(repr(content), repr(sides), used.digest),
        num_skipped=num_skipped,
    )


def _of_source(
    medium: Medium,
    entry: str,
    source: int,
    cfg: DataConfig,
    fmt: chat.Format,
    skipped: Skipped,
) -> Iterator[Chat]:
    for file in records.find(entry):
        for record in records.read([file]):
            try:
                if isinstance(record, DataError):
                    raise record
                yield from _chats(medium, record, file, source, cfg, fmt)
            except medium.error as error:
                skipped.add(error)
            except DataError as error:
                if not cfg.skip_bad_lines:
                    raise
                skipped.add(error)


def _chats(
    medium: Medium,
    record: jsonl.Record,
    file: files.File,
    source: int,
    cfg: DataConfig,
    fmt: chat.Format,
) -> list[Chat]:
    """The examples of a record."""
    where = record.where
    given, attachments = in_text(medium, jsonl.field(record, "messages"), file, where)
    tools = chat.checked_tools(record.fields.get("tools"), where)
    messages = chat.checked_messages(given, "'messages'", where, last=("assistant",), tools=tools)
    key = conversations.key_of(messages, tools) + b"".join(one.digest for one in attachments)
    found = []
    for pieces in reasoning.examples(fmt, messages, tools, cfg.chat_reasoning, where):
        count = inserted.num_marks(pieces, medium.mark)
        found.append(Chat(tuple(pieces), tuple(attachments[:count]), key, source, where))
    return found


def in_text(
    medium: Medium, messages: Any, file: files.File, where: str
) -> tuple[Any, list[Attachment]]:
    """Messages with marks in place of their attachments, and the attachments."""
    found: list[Attachment] = []
    if isinstance(messages, list):
        messages = [
            _in_text(medium, one, file, f"{where}: message {n}", found)
            for n, one in enumerate(messages, start=1)
        ]
    return messages, found


def _in_text(
    medium: Medium, value: Any, file: files.File, where: str, found: list[Attachment]
) -> Any:
    content = value.get("content") if isinstance(value, dict) else None
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    if any(isinstance(text, str) and medium.mark in text for text in texts):
        raise DataError(
            f"{where}: expected text without {medium.mark}, which stands for {medium.name}s."
        )
    if not isinstance(content, list):
        return value
    made = []
    for n, part in enumerate(parts, start=1):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            made.append(part["text"])
        elif kind in (medium.name, medium.embedded) and value.get("role") in ("user", "tool"):
            found.append(_attachment(medium, part, file, f"{where}, part {n}"))
            made.append(medium.mark)
        else:
            raise DataError(
                f"{where}, part {n}: expected text, or of a user or tool {medium.name} with a path "
                f"or {medium.embedded}, got {jsonl.kind(part)} of type {kind!r}."
            )
    return value | {"content": "".join(made)}


def _attachment(
    medium: Medium, part: Mapping[str, Any], file: files.File, where: str
) -> Attachment:
    path = part.get("path")
    try:
        if medium.embedded in part:
            content = medium.content_of(part[medium.embedded])

            def read() -> bytes:
                return content
        elif isinstance(path, str):
            read = functools.partial(_file_beside, medium, file, path)
            content = read()
        else:
            raise medium.error(f"expected a path or {medium.embedded}, got neither")
        size = medium.size_of(content)
    except medium.error as error:
        raise medium.error(f"{where}: {error}") from None
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return Attachment(read, digest, size)


def _file_beside(medium: Medium, file: files.File, path: str) -> bytes:
    if pathlib.PurePosixPath(path).is_absolute() or ".." in pathlib.PurePosixPath(path).parts:
        raise medium.error(f"expected a path below the folder of the records, got {path!r}")
    try:
        content = file.beside(path)
    except DataError as error:
        raise medium.error(str(error)) from None
    if content is None:
        raise medium.error(f"expected the {medium.name} {path!r} beside {file.name}, got none")
    return content
