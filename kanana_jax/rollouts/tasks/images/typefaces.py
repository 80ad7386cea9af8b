"""Text as arrays of ink, in the faces of pylopdf-fonts-ko: Noto Sans and Serif KR.

The package and its faces are under the SIL Open Font License 1.1, which is in its wheel.

Letters: Y rows of pixels, X columns.
"""

import functools
import importlib.util
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from kanana_jax import extras

with extras.needed("images"):
    from PIL import Image, ImageDraw, ImageFont

FACES = ("NotoSansKR-Regular.otf", "NotoSerifKR-Regular.otf")
LINE = 16  # pixels of a line of text, whatever its size
_PACKAGE = "pylopdf_fonts_ko"


def folder() -> Path:
    """Where the faces lie. ModuleNotFoundError where the package is not installed."""
    with extras.needed("images"):
        found = importlib.util.find_spec(_PACKAGE)
        if found is None or found.origin is None:
            raise ModuleNotFoundError(f"No module named {_PACKAGE!r}", name=_PACKAGE)
    return Path(found.origin).parent


@functools.lru_cache(maxsize=64)
def _font(face: int, size: int) -> ImageFont.FreeTypeFont:
    # Basic layout: no shaping library decides how an image looks.
    path = str(folder() / FACES[face])
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


@functools.lru_cache(maxsize=16_384)
def ink(text: str, face: int, size: int) -> UInt8[np.ndarray, "Y X"]:
    """How much of each pixel the text covers, from 0 to 255, on one baseline in LINE rows."""
    font = _font(face, size)
    width = max(1, int(np.ceil(font.getlength(text))))
    drawn = Image.new("L", (width, LINE))
    ImageDraw.Draw(drawn).text((0, LINE - 4), text, fill=255, font=font, anchor="ls")
    found = np.asarray(drawn)
    found.flags.writeable = False
    return found
