"""Text is UTF-8 without NULs; the error for anything else gives the file, the line and a cause."""

import codecs

from kanana_jax.data.errors import DataError

_MARKS = {  # the mark of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def decode(content: bytes, name: str, line: int = 1) -> str:
    """The text of `content`, which begins at line `line` of `name`. DataError if it is not text.

    A UTF-8 mark at its beginning is dropped.
    """
    place = content.find(b"\0")
    try:
        if place < 0:
            return content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
        cause = _about_nul(content)
    except UnicodeDecodeError as error:
        place = content.find(error.object) + error.start
        cause = f"the byte 0x{content[place]:02x} ({error.reason})"
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), None)
    if encoding:
        place, cause = 0, f"{encoding}; iconv -f {encoding} -t UTF-8 converts it"
    number = line + content.count(b"\n", 0, place)
    raise DataError(f"{name}, line {number}: expected UTF-8 text, got {cause}.")


def encode(text: str, where: str) -> bytes:
    """UTF-8 of `text`. DataError where it holds a NUL or half of a surrogate pair."""
    if "\0" in text:
        raise DataError(f"{where}: expected text, got a NUL character.")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise DataError(
            f"{where}: expected text, got the escape {half}, half of a surrogate pair."
        ) from error


def _about_nul(content: bytes) -> str:
    even, odd = content[::2].count(0), content[1::2].count(0)
    # English in UTF-16 has a NUL in nearly every pair of bytes, always on the same side.
    if len(content) >= 8 and max(even, odd) > len(content) / 4 > min(even, odd) * 8:
        encoding = "UTF-16LE" if odd > even else "UTF-16BE"
        return (
            f"NUL bytes as in {encoding} without its mark; iconv -f {encoding} -t UTF-8 converts it"
        )
    return "a NUL byte: the file is binary, or a crash has left zeros in it"
