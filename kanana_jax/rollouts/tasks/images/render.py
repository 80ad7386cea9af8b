"""Renders a record as an image: grey, 160 pixels wide, a line of 16 pixels for each of its rows.

    title
    name ........ number      receipt: plain    table: ruled    form: numbers in boxes
    name ........ number      bars and lines: the number is a length; marks at 0, 4, 8, 12
    total ....... number

Letters: Y rows of pixels, X columns.
"""

import numpy as np
from jaxtyping import UInt8

from kanana_jax.rollouts.tasks.images import record as records
from kanana_jax.rollouts.tasks.images import words
from kanana_jax.rollouts.tasks.images.record import Record
from kanana_jax.rollouts.tasks.images.typefaces import LINE, ink

WIDTH = 160
_AXIS, _UNIT = 62, 7  # where a chart's 0 is, and pixels of a unit
_MARKS = (0, 4, 8, 12)
_NOISE = 12  # greys


def height(num_rows: int) -> int:
    """The height of an image: title, rows, total or marks, and half a line around them."""
    return LINE * (num_rows + 3)


def render(record: Record) -> UInt8[np.ndarray, "Y X"]:
    """The image; the same on every machine with the same version of FreeType."""
    look, language = record["look"], record["language"]
    num_rows = len(record["values"])
    page = np.zeros((height(num_rows), WIDTH), np.uint8)
    top = 4 + look["top"]
    _put(page, records.title(record, language), look, top, look["left"] + 30)
    lines = [top + LINE * (n + 1) for n in range(num_rows)]
    for n, line in enumerate(lines):
        _put(page, records.name(record, n, language), look, line, look["left"])
    below = top + LINE * (num_rows + 1)
    if record["kind"] in ("bars", "lines"):
        _chart(page, record, lines, below)
    else:
        for value, line in zip(record["values"], lines, strict=True):
            _put_right(page, str(value), look, line)
        _rules(page, record, lines, below)
        if record["total"] is not None:
            _put(page, words.TOTAL[language == "ko"], look, below, look["left"])
            _put_right(page, str(record["total"]), look, below)
    return _shaded(page, look)


def _put(page: np.ndarray, text: str, look: dict, top: int, left: int) -> None:
    drawn = ink(text, look["face"], look["size"])
    part = page[top : top + drawn.shape[0], left : left + drawn.shape[1]]
    np.maximum(part, drawn[: part.shape[0], : part.shape[1]], out=part)


def _put_right(page: np.ndarray, text: str, look: dict, top: int) -> None:
    width = ink(text, look["face"], look["size"]).shape[1]
    _put(page, text, look, top, WIDTH - 6 - look["right"] - width)


def _rules(page: np.ndarray, record: Record, lines: list[int], below: int) -> None:
    match record["kind"]:
        case "receipt":
            page[below, 4 : WIDTH - 4 : 2] = 160
        case "table":
            for line in (*lines, below):
                page[line, 2 : WIDTH - 2] = 120
            page[lines[0] : below + LINE, WIDTH // 2 + 14] = 120
        case "form":
            for line in lines:
                page[line + 1, WIDTH // 2 + 18 : WIDTH - 2] = 140
                page[line + LINE - 1, WIDTH // 2 + 18 : WIDTH - 2] = 140


def _chart(page: np.ndarray, record: Record, lines: list[int], below: int) -> None:
    end = below + 2
    for mark in _MARKS:
        at = _AXIS + _UNIT * mark
        page[lines[0] : end, at] = 70
        label = ink(str(mark), 0, 10)
        page[end : end + LINE, at - label.shape[1] // 2 :][:, : label.shape[1]] = label
    ends = [_AXIS + _UNIT * value for value in record["values"]]
    middles = [line + LINE // 2 for line in lines]
    if record["kind"] == "bars":
        for x, y in zip(ends, middles, strict=True):
            page[y - 4 : y + 4, _AXIS:x] = 200
        return
    for n, (x, y) in enumerate(zip(ends, middles, strict=True)):
        page[y - 2 : y + 3, x - 2 : x + 3] = 255
        if n:
            rows = np.arange(middles[n - 1], y)
            page[rows, np.linspace(ends[n - 1], x, len(rows)).round().astype(int)] = 200


def _shaded(page: np.ndarray, look: dict) -> UInt8[np.ndarray, "Y X"]:
    span = look["paper"] - look["ink"]
    grey = look["paper"] - page.astype(np.int32) * span // 255
    noise = np.random.default_rng(look["noise"]).integers(0, _NOISE, page.shape, np.int32)
    return np.clip(grey - noise, 0, 255).astype(np.uint8)
