"""Small corpora for the data tests, and texts in every file format."""

import bz2
import gzip
import json
import lzma
import pathlib
from collections.abc import Callable

import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from kanana_jax.config import DataConfig

SMALL = DataConfig(seq_len=16, batch_size=4, heldout_fraction=0.1)


def write_jsonl(path: pathlib.Path, texts: list[str]) -> pathlib.Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def documents(count: int, offset: int = 0) -> list[str]:
    """Distinct documents of 10 to 60 bytes, some with characters of several bytes."""
    return [
        f"document {offset + i} " + "ab \u00e9\ud55c"[: i % 6] * (1 + i % 9) for i in range(count)
    ]


def zstd(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as out:
        out.write(content)
    return sink.getvalue().to_pybytes()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}


def lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": 7, "text": text}) + "\n" for text in texts).encode()


def _array(records: list) -> bytes:
    return json.dumps(records, indent=1, ensure_ascii=False).encode()


def parquet(values: object, **options: object) -> bytes:
    sink = pyarrow.BufferOutputStream()
    table = values if isinstance(values, pyarrow.Table) else pyarrow.table({"text": values})
    pyarrow.parquet.write_table(table, sink, **options)
    return sink.getvalue().to_pybytes()


def ipc(values: object, new: Callable = pyarrow.ipc.new_stream, batch: int = 3) -> bytes:
    sink = pyarrow.BufferOutputStream()
    table = values if isinstance(values, pyarrow.Table) else pyarrow.table({"text": values})
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch)
    return sink.getvalue().to_pybytes()


def _typed(kind: pyarrow.DataType) -> Callable[[list[str]], pyarrow.Array]:
    return lambda texts: pyarrow.array(texts, pyarrow.string()).cast(kind)


# Name of a file -> its content, for a list of texts.
RECORDS: dict[str, Callable[[list[str]], bytes]] = {
    "a.jsonl": lines,
    "a.ndjson": lines,
    "a.JSON": lines,
    "a.jsonl.crlf.jsonl": lambda texts: b"\xef\xbb\xbf" + lines(texts).replace(b"\n", b"\r\n\r\n"),
    "a.array.json": lambda texts: _array([{"text": text, "n": [1]} for text in texts]),
    "a.strings.json": _array,
    **{
        f"a.{kind}{suffix}": lambda texts, pack=pack: pack(lines(texts))
        for suffix, pack in COMPRESS.items()
        for kind in ("jsonl", "json")
    },
    "a.parquet": parquet,
    "a.zstd.parquet": lambda texts: parquet(texts, compression="zstd", row_group_size=2),
    "a.large.parquet": lambda texts: parquet(_typed(pyarrow.large_string())(texts)),
    "a.bytes.parquet": lambda texts: parquet(_typed(pyarrow.binary())(texts)),
    "a.view.parquet": lambda texts: parquet(_typed(pyarrow.string_view())(texts)),
    "a.dictionary.parquet": lambda texts: parquet(pyarrow.array(texts).dictionary_encode()),
    "a.arrow": ipc,
    "a.file.arrow": lambda texts: ipc(texts, pyarrow.ipc.new_file),
    "a.feather": lambda texts: ipc(texts, pyarrow.ipc.new_file),
    "a.large.arrow": lambda texts: ipc(_typed(pyarrow.large_string())(texts)),
    "a.view.arrow": lambda texts: ipc(_typed(pyarrow.string_view())(texts)),
    "a.dictionary.arrow": lambda texts: ipc(pyarrow.array(texts).dictionary_encode()),
}
# The same for one text.
WHOLE: dict[str, Callable[[str], bytes]] = {
    "a.txt": str.encode,
    "a.MD": str.encode,
    "a.mark.txt": lambda text: b"\xef\xbb\xbf" + text.encode(),
    **{
        f"a.txt{suffix}": lambda text, pack=pack: pack(text.encode())
        for suffix, pack in COMPRESS.items()
    },
}
