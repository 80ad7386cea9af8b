"""Files of text that are written: what is read is what was given, and no half of it."""

import pytest

from kanana_jax.config import DataConfig
from kanana_jax.data import DataError, jsonl, sources


def test_what_was_written_is_read(tmp_path):
    texts = ["one\nline", 'a "quote" and \\', "한글 \u2028 text", ""]
    path = tmp_path / "new" / "texts.jsonl"
    assert jsonl.write(path, texts) == sum(len(text.encode()) for text in texts)
    (source,) = sources.open_sources(DataConfig(paths=(str(path),)))
    assert [text.decode() for text in source.read()] == texts
    assert [one.name for one in path.parent.iterdir()] == ["texts.jsonl"]


def test_a_file_that_is_not_finished_leaves_the_one_before(tmp_path):
    path = tmp_path / "texts.jsonl"
    jsonl.write(path, ["before"])

    def breaking():
        yield "half"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        jsonl.write(path, breaking())
    assert path.read_text() == '{"text": "before"}\n'
    assert [one.name for one in tmp_path.iterdir()] == ["texts.jsonl"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("texts.txt", "expected a file ending in .jsonl"), ("file/texts.jsonl", "cannot be written")],
)
def test_a_place_that_takes_no_text_is_refused(tmp_path, name, message):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=message):
        jsonl.write(tmp_path / name, ["a"])
