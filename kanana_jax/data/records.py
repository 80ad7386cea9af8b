"""Records of an entry of data.paths: objects of JSON lines, or rows of Parquet files.

A null inside a row means an absent field, because columns give every struct all fields. Arguments
of calls and tools that differ from row to row are best kept as JSON strings.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from kanana_jax.data import files, jsonl
from kanana_jax.data.errors import DataError

_PARQUET = ".parquet"
_BATCH_ROWS = 256


def find(entry: str) -> list[files.File]:
    """The files of an entry. DataError if there is none or one is neither kind."""
    found = files.find(entry)
    return found if all(map(_is_parquet, found)) else jsonl.find(entry)


def read(found: Sequence[files.File]) -> Iterator[jsonl.Record | DataError]:
    """The records of the files, as `jsonl.read` gives them."""
    if found and _is_parquet(found[0]):
        for file in found:
            yield from _rows(file)
    else:
        yield from jsonl.read(found)


def _is_parquet(file: files.File) -> bool:
    return file.path.lower().endswith(_PARQUET)


def _rows(file: files.File) -> Iterator[jsonl.Record]:
    import pyarrow.parquet

    with file.open() as opened:
        table = pyarrow.parquet.ParquetFile(opened, page_checksum_verification=True)
        if not table.metadata.num_rows:
            raise DataError(
                f"{file.name}: expected rows of records, got none; take it out of data.paths or "
                "write it again."
            )
        number = 0
        for batch in table.iter_batches(batch_size=_BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield jsonl.Record(_without_nulls(row), f"{file.name}, row {number}")


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value
