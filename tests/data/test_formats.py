"""Every file format gives the same documents; what cannot be used is named by file and place."""

import io
import json
import pathlib

import hypothesis
import numpy as np
import pyarrow
import pyarrow.ipc
import pytest
from hypothesis import strategies as st
from small_corpora import COMPRESS, RECORDS, WHOLE, ipc, lines, parquet

from kanana_jax import data
from kanana_jax.config import DataConfig
from kanana_jax.data import formats, json_text, sources
from kanana_jax.data.errors import DataError

TEXTS = ["one\n\ntwo", "d\u00e9j\u00e0 vu \ud55c\uae00", "", "three", " \u2028 ", "\U0001f600\\"]


def read(name: str, content: bytes, text_field: str = "text") -> list[str]:
    """Documents, and for what cannot be used the error."""
    found = formats.format_of(name, name).read(io.BytesIO(content), name, text_field)
    return [one.decode() if isinstance(one, bytes) else f"ERROR {one}" for one in found]


def read_from_disk(path: pathlib.Path, content: bytes) -> list[bytes]:
    path.write_bytes(content)
    (source,) = sources.open_sources(DataConfig(paths=(str(path),)))
    return list(source.read())


@pytest.mark.parametrize("name", RECORDS)
def test_records_are_one_document_each(name):
    assert read(name, RECORDS[name](TEXTS)) == TEXTS
    assert read(name, RECORDS[name]([])) == []


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("text", [TEXTS[1], "", "\r\n"])
def test_plain_files_are_one_document_byte_for_byte(name, text):
    assert read(name, WHOLE[name](text)) == [text]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_files_of_several_members_are_read_to_their_end(suffix):
    pack = COMPRESS[suffix]
    content = b"".join(pack(lines([text])) for text in TEXTS) + pack(b"")
    assert read(f"a.jsonl{suffix}", content) == TEXTS


@pytest.mark.parametrize("suffix", COMPRESS)
@hypothesis.given(
    part=st.floats(0, 1, exclude_max=True), junk=st.sampled_from([b"", b"x", b"y" * 99])
)
@hypothesis.settings(deadline=None, max_examples=30)
def test_a_torn_or_lengthened_member_is_an_error(tmp_path_factory, suffix, part, junk):
    two = COMPRESS[suffix](lines(TEXTS)), COMPRESS[suffix](lines(TEXTS))
    whole = b"".join(two)
    torn = whole[: int(part * len(whole))] if not junk else whole + junk
    hypothesis.assume(torn != two[0])  # a file of one member
    with pytest.raises(DataError, match=f"a.jsonl{suffix}.*(cannot be read|got an empty file)"):
        read_from_disk(tmp_path_factory.getbasetemp() / f"a.jsonl{suffix}", torn)


NESTED = [{"m": {"text": "x", "n": {"t": "y"}}}, {"m": {"text": None, "n": None}}, {"m": None}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", "".join(json.dumps(one) + "\n" for one in NESTED).encode()),
        ("a.json", json.dumps(NESTED).encode()),
        ("a.parquet", parquet(pyarrow.Table.from_pylist(NESTED))),
        ("a.arrow", ipc(pyarrow.Table.from_pylist(NESTED))),
    ],
)
def test_a_dot_in_text_field_leads_into_a_record(name, content):
    assert read(name, content, "m.text") == ["x", "", ""]
    assert read(name, content, "m.n.t") == ["y", "", ""]


def test_a_key_with_a_dot_goes_before_the_way_inside():
    record = {"a.b": "flat", "a": {"b": "deep"}}
    assert read("a.jsonl", json.dumps(record).encode(), "a.b") == ["flat"]
    assert read("a.arrow", ipc(pyarrow.Table.from_pylist([record])), "a.b") == ["flat"]


GOOD = b'{"text": "good"}'
BAD_LINES = {
    b'{"text": "cut \\ud83d here"}': "the escape \\ud83d, half of a surrogate pair",
    '{"text": "caf\u00e9"}'.encode("latin-1"): "the byte 0xe9 (invalid continuation byte)",
    b'{"text": "a\\u0000b"}': "a NUL character",
    b'{"text": "a\0b"}': "a NUL byte: the file is binary, or a crash",
    b"\0" * 50: "a NUL byte",
    b'{"text": "x"': "Expecting ',' delimiter at column 14",
    b'{"text": "x\ty"}': "Invalid control character at at column 12",
    b'{"text": "x"} {"text": "y"}': "Extra data at column 15",
    b"not json": "Expecting value at column 1",
    b"17": "expected a JSON object or a string, got a number",
    b"[]": "got an array",
    b"null": "got null",
    b"{}": "expected the key 'text', got none; set data.text_field",
    b'{"body": "x", "m": {"body": 1, "id": 2}}': "got 'body', 'm.body', 'm.id'; set",
    b'{"text": 5}': "expected a string in 'text', got a number",
    b'{"text": ["x"], "body": ""}': "got an array; set data.text_field, of 'text', 'body'",
    b'{"text": {"x": 1}}': "got an object; set data.text_field, of 'text.x'",
    b'{"text": true}': "got a truth value",
    b'{"a":' * 100_000: "nested too deep",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_is_named_and_the_others_are_read(line):
    content = b"\n".join([GOOD, b"", GOOD, line, GOOD])
    one, two, bad, three = read("a.jsonl", content)
    assert (one, two, three) == ("good",) * 3
    assert bad.startswith("ERROR a.jsonl, line 4: ") and BAD_LINES[line] in bad
    assert len(bad) < 900 and "\n" not in bad


def test_a_number_of_any_length_beside_the_text_is_no_fault():
    assert read("a.jsonl", b'{"n": ' + b"9" * 10_000 + b', "text": "x"}') == ["x"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'[{"text": "a"},\n\n512, "b"]', ["a", "line 3, item 2: expected a JSON object or", "b"]),
        (b'[{"text": "a"},\n{"text": "\\ud800"}]', ["a", "line 2, item 2: expected text, got the"]),
        (b'[{"text": 5}]', ["line 1, item 1: expected a string in 'text', got a number"]),
    ],
)
@pytest.mark.parametrize("chunk", [1, 2**20])
def test_a_bad_item_of_an_array_is_named_and_the_others_are_read(
    monkeypatch, content, found, chunk
):
    monkeypatch.setattr(json_text, "_CHUNK", chunk)
    got = read("a.json", content)
    assert len(got) == len(found)
    assert all(expected in one for one, expected in zip(got, found, strict=True))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'["a",\n"b', "line 2: expected a value of a JSON array, got Unterminated string"),
        (b'["a",\n\n', "line 3: expected a value of a JSON array"),
        (b'["a"\n"b"]', "line 2: expected ',' of a JSON array, got '\"'"),
        (b'["a"', "expected ',' of a JSON array, got the end of the file"),
        (b'["a"]\n{"text": 1}', "line 2: expected nothing after the array"),
        (b'["a",\n"\xff"]', "line 2: expected UTF-8 text, got the byte 0xff"),
        (
            b'["a",\n"\xe9',
            "line 2: expected UTF-8 text, got the byte 0xe9 (unexpected end of data)",
        ),
        (b'["a",\n' + b"[" * 100_000, "line 2: the item is nested too deep"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 2**20])
def test_broken_syntax_of_an_array_is_named_by_its_line(monkeypatch, content, expected, chunk):
    monkeypatch.setattr(json_text, "_CHUNK", chunk)
    with pytest.raises(DataError) as caught:
        read("a.json", content)
    assert expected in str(caught.value)


@hypothesis.given(
    texts=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))),
    chunk=st.integers(1, 9),
    indent=st.none() | st.integers(0, 2),
)
@hypothesis.settings(deadline=None, max_examples=60)
def test_arrays_read_in_pieces_are_whole(texts, chunk, indent):
    content = json.dumps([{"text": t} for t in texts], ensure_ascii=False, indent=indent).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_text, "_CHUNK", chunk)
        assert read("a.json", content) == texts


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_file_without_line_ends_is_not_read_into_memory(monkeypatch, name):
    monkeypatch.setattr(json_text, "_LONGEST", 1000)
    monkeypatch.setattr(json_text, "_CHUNK", 100)
    content = (b"[" if name == "a.json" else b"") + b'"' + b"x" * 10_000
    with pytest.raises(DataError, match=r"line 1: expected (lines|items) of less than 1000"):
        read(name, content)


ENCODINGS = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.txt.gz", "a.json"])
def test_text_of_another_encoding_is_named_with_advice(name, encoding):
    content = '{"text": "plain English, long enough to be told from a lost block"}\n' * 9
    content = f"[{content}]" if name == "a.json" else content
    packed = content.encode(encoding)
    packed = COMPRESS[".gz"](packed) if name.endswith(".gz") else packed
    try:
        (got, *_) = read(name, packed)
    except DataError as error:
        got = str(error)
    assert f"{name}, line 1: expected UTF-8 text, got " in got
    named = encoding.upper().replace("-LE", "LE").replace("-BE", "BE")
    assert named in got or encoding == "utf-32-le"
    assert encoding.startswith("utf-32") or f"iconv -f {named} -t UTF-8" in got


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"one\ntwo\xff", "a.txt, line 2: expected UTF-8 text, got the byte 0xff"),
        (b"\xef\xbb\xbfone\n\ntwo\xff", "a.txt, line 3: expected UTF-8 text, got the byte 0xff"),
        (b"one\ntwo\nthr\0ee", "a.txt, line 3: expected UTF-8 text, got a NUL byte"),
        (b"caf\xc3", "a.txt, line 1: expected UTF-8 text, got the byte 0xc3 (unexpected end"),
    ],
)
def test_bytes_that_are_no_text_are_named_by_their_line(content, expected):
    with pytest.raises(DataError) as caught:
        read("a.txt", content)
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize("pack", [parquet, ipc])
@pytest.mark.parametrize("kind", [pyarrow.string(), pyarrow.large_string(), pyarrow.binary()])
def test_a_bad_row_is_named_and_the_others_are_read(pack, kind):
    values = pyarrow.array([b"a", b"caf\xe9", None, b"n\0l", b"b"])
    wide = values.cast(pyarrow.large_binary()) if kind == pyarrow.large_string() else values
    got = read("a.parquet" if pack is parquet else "a.arrow", pack(wide.view(kind)))
    assert got[0::2] == ["a", "", "b"]
    assert got[1].startswith("ERROR a") and "row 2, line 1: expected UTF-8 text" in got[1]
    assert "row 4, line 1: expected UTF-8 text, got a NUL byte" in got[3]


def test_offsets_that_lead_out_of_a_file_are_an_error(tmp_path):
    whole = ipc(["ab", "cd"])
    offsets = np.array([0, 2, 4], np.int32).tobytes()
    assert offsets in whole
    damaged = whole.replace(offsets, np.array([0, 2**28, 4], np.int32).tobytes())
    with pytest.raises(DataError, match="cannot be read: ArrowInvalid: Offset invariant failure"):
        read_from_disk(tmp_path / "a.arrow", damaged)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ({"body": ["x"], "m": [{"t": 1}]}, "expected the column 'text', got 'body', 'm.t'; set"),
        ({"text": [5]}, "expected strings in the column 'text', got int64"),
        (
            {"text": [["x"]], "b": [""]},
            "got list<item: string>; set data.text_field, of 'text', 'b'",
        ),
        ({"text": [{"a": "x"}]}, "got struct<a: string>; set data.text_field, of 'text.a'"),
        ({"text": [True]}, "got bool"),
    ],
)
@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_column_without_text_is_named_with_those_there_are(name, column, expected):
    table = pyarrow.table(column)
    with pytest.raises(DataError) as caught:
        read(name, parquet(table) if name == "a.parquet" else ipc(table))
    assert expected.replace("item", "element" if name == "a.parquet" else "item") in str(
        caught.value
    )


@pytest.mark.parametrize(
    "name",
    ["a.pdf", "a.docx", "a.tar", "a.zip", "a.tar.gz", "a.csv", "a.gz", "a.parquet.gz", "a", "txt"],
)
def test_other_files_are_refused_by_name_with_what_is_read(name):
    with pytest.raises(DataError) as caught:
        formats.format_of(f"/x/{name}", name)
    message = str(caught.value)
    assert repr(name) in message
    assert all(
        f"{suffix}" in message for suffix in (".txt", ".jsonl", ".parquet", ".arrow", ".zst")
    )


def _damaged(draw) -> tuple[str, bytes, list[str] | None]:
    """A file as it is after an accident, and what it must be read as if a checksum guards it."""
    every = {**RECORDS, **{name: lambda t, w=w: w(t[0]) for name, w in WHOLE.items()}}
    name = draw(st.sampled_from(sorted(every)))
    content = bytearray(every[name](TEXTS))
    accident = draw(st.sampled_from(["flips", "cut", "hole", "name", "encoding", "twice"]))
    place = draw(st.integers(0, len(content) - 1))
    if accident == "flips":
        for _ in range(draw(st.integers(1, 4))):
            content[draw(st.integers(0, len(content) - 1))] ^= 1 << draw(st.integers(0, 7))
    elif accident == "cut":
        del content[place:]
    elif accident == "hole":
        content[place : place + 64] = bytes(min(64, len(content) - place))
    elif accident == "name":
        name = draw(st.sampled_from(sorted(every)))
    elif accident == "twice":
        content.extend(bytes(content))
    else:
        content = bytearray(content.decode("latin-1").encode(draw(st.sampled_from(ENCODINGS))))
    is_guarded = accident in ("flips", "cut", "hole") and name.endswith((".gz", ".bz2", ".xz"))
    whole = TEXTS if name in RECORDS else TEXTS[:1]
    return name, bytes(content), whole if is_guarded else None


@hypothesis.given(file=st.composite(_damaged)())
@hypothesis.settings(deadline=None, max_examples=300)
def test_a_damaged_file_is_read_or_named_in_one_line_with_nothing_written(tmp_path_factory, file):
    name, content, guarded = file
    folder = tmp_path_factory.getbasetemp()
    try:
        texts = [document.decode() for document in read_from_disk(folder / name, content)]
        assert guarded in (None, texts)
    except DataError as error:
        assert name in str(error) and str(error).isprintable() and len(str(error)) < 900
        with pytest.raises(DataError, match=name):
            data.open_corpus(DataConfig(paths=(str(folder / name),)), folder / "cache")
        assert not (folder / "cache").exists()
