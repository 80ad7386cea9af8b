"""Conversations with images, as `data.conversations` has them without: a record is

    {"messages": [{"role": "user", "content": [{"type": "image", "path": "a.png"},
                                               {"type": "text", "text": "sum?"}]},
                  {"role": "assistant", "content": "86"}]}

A path is one beside the record's file, and {"type": "image_url", "image_url": {"url": "data:..."}}
holds its image. Each image is decoded once while records are read. One that cannot be used leaves
its conversation out, which is counted and never ends a run. How many positions an image takes is
known with the model's encoder, see `documents`.
"""

import functools
import hashlib
import pathlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from kanana_jax.config import DataConfig
from kanana_jax.data import cache_files, chat, conversations, examples, files, jsonl, records
from kanana_jax.data.chat import Piece, reasoning
from kanana_jax.data.errors import DataError
from kanana_jax.data.images import encoding
from kanana_jax.data.images import files as image_files
from kanana_jax.data.images.files import ImageError
from kanana_jax.data.sources import Skipped
from kanana_jax.data.tokenizer import Tokenizer
from kanana_jax.data.wanted_tokenizer import wanted_tokenizer


class Picture(NamedTuple):
    """An image that was decoded once. `read` gives the content of its file again."""

    read: Callable[[], bytes]
    digest: bytes
    sides: tuple[int, int]  # height and width, pixels


class Chat(NamedTuple):
    pieces: tuple[Piece, ...]
    pictures: tuple[Picture, ...]  # one for each mark
    key: bytes  # decides the side
    source: int
    where: str


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageChats:
    """Conversations that were read and found fit."""

    names: tuple[str, ...]
    format: chat.Format
    tokenizer: Tokenizer
    chats: tuple[Chat, ...]
    is_heldout: tuple[bool, ...]
    digest: str  # equal if and only if every text, image, side and the tokenizer are
    num_skipped: int

    @property
    def fingerprint(self) -> str:
        return self.digest

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    def describe(self) -> str:
        num_images = sum(len(one.pictures) for one in self.chats)
        return (
            f"{len(self.names)} source(s), {len(self.chats):,} conversations with {num_images:,} "
            f"images, {sum(self.is_heldout):,} held out"
        )

    def open(self) -> Self:
        return self


def read(
    cfg: DataConfig, cache_dir: pathlib.Path, report: Callable[[str], None] = lambda line: None
) -> ImageChats:
    """Reads and checks the conversations of `cfg` and all their images, and writes nothing.

    `report` is told of each source what was left out. DataError names file and line.
    """
    if not cfg.paths:
        raise DataError(
            "data.paths: expected .jsonl files of conversations with images, got none; there is "
            "no default."
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
        here = [*_of_source(entry, source, cfg, fmt, skipped)]
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
        piece.text.replace(encoding.MARK, "").encode()
        for one, is_heldout in zip(found, sides, strict=True)
        for piece in one.pieces
        if not is_heldout
    )
    used = wanted.make(texts)
    content = [(one.pieces, [x.digest for x in one.pictures], one.source) for one in found]
    return ImageChats(
        names=cfg.paths,
        format=fmt,
        tokenizer=used,
        chats=tuple(found),
        is_heldout=tuple(sides),
        digest=cache_files.digest(repr(content), repr(sides), used.digest),
        num_skipped=num_skipped,
    )


def _of_source(
    entry: str, source: int, cfg: DataConfig, fmt: chat.Format, skipped: Skipped
) -> Iterator[Chat]:
    for file in records.find(entry):
        for record in records.read([file]):
            try:
                if isinstance(record, DataError):
                    raise record
                yield from _chats(record, file, source, cfg, fmt)
            except ImageError as error:
                skipped.add(error)
            except DataError as error:
                if not cfg.skip_bad_lines:
                    raise
                skipped.add(error)


def _chats(
    record: jsonl.Record, file: files.File, source: int, cfg: DataConfig, fmt: chat.Format
) -> list[Chat]:
    """The examples of a record."""
    where, pictures = record.where, []
    given = jsonl.field(record, "messages")
    if isinstance(given, list):
        given = [_in_text(one, file, f"{where}: message {n}", pictures)
                 for n, one in enumerate(given, start=1)]  # fmt: skip
    tools = chat.checked_tools(record.fields.get("tools"), where)
    messages = chat.checked_messages(given, "'messages'", where, last=("assistant",), tools=tools)
    key = conversations.key_of(messages, tools) + b"".join(one.digest for one in pictures)
    found = []
    for pieces in reasoning.examples(fmt, messages, tools, cfg.chat_reasoning, where):
        count = encoding.num_marks(pieces)
        found.append(Chat(tuple(pieces), tuple(pictures[:count]), key, source, where))
    return found


def _in_text(value: Any, file: files.File, where: str, pictures: list[Picture]) -> Any:
    """A message with marks in the place of its images, which `pictures` gets."""
    content = value.get("content") if isinstance(value, dict) else None
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    if any(isinstance(text, str) and encoding.MARK in text for text in texts):
        raise DataError(f"{where}: expected text without {encoding.MARK}, which stands for images.")
    if not isinstance(content, list):
        return value
    made = []
    for n, part in enumerate(parts, start=1):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            made.append(part["text"])
        elif kind in ("image", "image_url") and value.get("role") in ("user", "tool"):
            pictures.append(_picture(part, file, f"{where}, part {n}"))
            made.append(encoding.MARK)
        else:
            raise DataError(
                f"{where}, part {n}: expected text, or of a user or tool an image with a path or "
                f"an image_url, got {jsonl.kind(part)} of type {kind!r}."
            )
    return value | {"content": "".join(made)}


def _picture(part: dict[str, Any], file: files.File, where: str) -> Picture:
    url, path = part.get("image_url"), part.get("path")
    url = url.get("url") if isinstance(url, dict) else url
    try:
        if isinstance(url, str):
            content = image_files.data_of_url(url)

            def read() -> bytes:
                return content
        elif isinstance(path, str):
            read = functools.partial(_file_beside, file, path)
            content = read()
        else:
            raise ImageError("expected a path or an image_url, got neither")
        pixels = image_files.read(content)
    except ImageError as error:
        raise ImageError(f"{where}: {error}") from None
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return Picture(read, digest, pixels.shape[:2])


def _file_beside(file: files.File, path: str) -> bytes:
    if pathlib.PurePosixPath(path).is_absolute() or ".." in pathlib.PurePosixPath(path).parts:
        raise ImageError(f"expected a path below the folder of the records, got {path!r}")
    try:
        content = file.beside(path)
    except DataError as error:
        raise ImageError(str(error)) from None
    if content is None:
        raise ImageError(f"expected the image {path!r} beside {file.name}, got none")
    return content
