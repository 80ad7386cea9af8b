"""Documents from a column of Parquet and Arrow files, one per row, a batch of rows at a time."""

import io
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from kanana_jax.data import utf8
from kanana_jax.data.errors import DataError, listed

_BATCH_ROWS = 1024
_FILE_MARK = b"ARROW1"  # Arrow files without it are streams
_TEXT_TYPES = {
    "string",
    "large_string",
    "string_view",
    "binary",
    "large_binary",
    "binary_view",
    "null",
}


def read_parquet(
    file: io.BufferedReader, name: str, text_field: str
) -> Iterator[bytes | DataError]:
    """The documents of a Parquet file."""
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(file, page_checksum_verification=True)
    path = _path(table.schema_arrow, name, text_field)
    batches = table.iter_batches(columns=[text_field], batch_size=_BATCH_ROWS)
    return _documents(batches, path, name)


def read_ipc(file: io.BufferedReader, name: str, text_field: str) -> Iterator[bytes | DataError]:
    """The documents of an Arrow file or stream; Feather is the former."""
    import pyarrow.ipc

    if file.peek(len(_FILE_MARK)).startswith(_FILE_MARK):
        table = pyarrow.ipc.open_file(file)
        batches = (table.get_batch(index) for index in range(table.num_record_batches))
    else:
        table = batches = pyarrow.ipc.open_stream(file)
    return _documents(batches, _path(table.schema, name, text_field), name)


def _path(schema: Any, name: str, text_field: str) -> list[str]:
    """The column, and the fields inside it, that `text_field` names. DataError if not of text."""
    from pyarrow import types

    path = [text_field] if text_field in schema.names else text_field.split(".")
    kind = None
    fields = schema
    for part in path:
        kind = {field.name: field.type for field in fields}.get(part)
        if kind is None:
            raise DataError(
                f"{name}: expected the column {text_field!r}, got {listed(_names(schema))}; "
                "set data.text_field."
            )
        fields = kind if types.is_struct(kind) else ()
    stored = kind.value_type if types.is_dictionary(kind) else kind  # pyright: ignore
    if str(stored) not in _TEXT_TYPES:
        raise DataError(
            f"{name}: expected strings in the column {text_field!r}, got {kind}; "
            f"set data.text_field, of {listed(_names(schema))}."
        )
    return path


def _names(schema: Any) -> list[str]:
    """The columns; the fields of a struct follow its name and a dot."""
    from pyarrow import types

    return [
        name
        for field in schema
        for name in (
            [f"{field.name}.{inner.name}" for inner in field.type]
            if types.is_struct(field.type)
            else [field.name]
        )
    ]


def _documents(batches: Iterable[Any], path: list[str], name: str) -> Iterator[bytes | DataError]:
    rows = itertools.chain.from_iterable(_values(batch, path) for batch in batches)
    for number, value in enumerate(rows, start=1):
        # A null is a document without text; those are dropped with the other empty ones.
        document = value or b""
        try:
            utf8.decode(document, f"{name}, row {number}")
            yield document
        except DataError as error:
            yield error


def _values(batch: Any, path: list[str]) -> Iterator[bytes | None]:
    import pyarrow
    import pyarrow.compute

    # A damaged Arrow file may have offsets that lead out of its memory.
    column = batch.column(path[0])
    column.validate()
    if path[1:]:
        column = pyarrow.compute.struct_field(column, path[1:])  # pyright: ignore
    # As bytes, so that text which is not UTF-8 fails by itself and not with its whole batch.
    as_bytes = {
        pyarrow.string(): pyarrow.binary(),
        pyarrow.large_string(): pyarrow.large_binary(),
    }
    if column.type in as_bytes:
        column = column.view(as_bytes[column.type])
    column.validate(full=True)
    for begin in range(0, len(column), _BATCH_ROWS):
        yield from column.slice(begin, _BATCH_ROWS).cast(pyarrow.large_binary()).to_pylist()
