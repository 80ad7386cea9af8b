"""PNG and JPEG files as arrays of pixels, within limits, and the size at which a model reads them.

The size that a file states is checked before any pixel is decoded, so the memory that an image can
take is known: `Limits.max_pixels` x 4 bytes, a few times over. A file that cannot be used raises
ImageError, one line, and no other error.

    fitted      scaled down until its patches are few enough, never up; then padded below and to the
                right with black to whole squares of patches, as Kimi K2.5's own processor does

Letters: Y rows of pixels, X columns, C channels.
"""

import base64
import binascii
import dataclasses
import io
import math

import numpy as np
from jaxtyping import UInt8

from kanana_jax import extras
from kanana_jax.config import VisionConfig
from kanana_jax.data.errors import DataError, first_line

with extras.needed("images"):
    from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG")
_MEDIA_TYPES = ("image/png", "image/jpeg")
_MAX_RATIO = 200  # of the sides: a line of pixels is no image, and no grid has room for it


class ImageError(DataError):
    """A file that is not an image that can be read here."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What an image may be. A bomb is a small file of many pixels."""

    max_bytes: int = 20 * 2**20
    max_pixels: int = 2**24  # 4096 x 4096


def read(
    content: bytes, limits: Limits = Limits(), num_channels: int = 3
) -> UInt8[np.ndarray, "Y X C"]:
    """The pixels of a PNG or JPEG file; transparent ones are as on white paper."""
    if len(content) > limits.max_bytes:
        raise ImageError(
            f"expected an image of at most {limits.max_bytes} bytes, got {len(content)}; make it "
            "smaller"
        )
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_size(image.size, limits)
            image.load()
            return _pixels(ImageOps.exif_transpose(image), num_channels)
    except ImageError:
        raise
    except Exception as error:  # damaged files fail in too many ways to list
        raise ImageError(
            f"expected a whole PNG or JPEG file, got {len(content)} bytes of none: "
            f"{first_line(error)}"
        ) from None


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if not width * height:
        raise ImageError(f"expected pixels, got an image of {width} x {height}")
    if width * height > limits.max_pixels:
        raise ImageError(
            f"expected at most {limits.max_pixels} pixels, got {width} x {height}; make it smaller"
        )
    if max(size) > _MAX_RATIO * min(size):
        raise ImageError(
            f"expected sides that differ at most by a factor of {_MAX_RATIO}, got {width} x "
            f"{height}"
        )


def _pixels(image: Image.Image, num_channels: int) -> UInt8[np.ndarray, "Y X C"]:
    if image.mode.startswith("I"):  # 16 bits of grey
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        image = Image.fromarray(grey)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        drawn = image.convert("RGBA")
        paper = Image.new("RGBA", drawn.size, "white")
        image = Image.alpha_composite(paper, drawn)
    found = np.asarray(image.convert("L" if num_channels == 1 else "RGB"))
    return found.reshape(*found.shape[:2], num_channels)


def of_data_url(
    url: str, limits: Limits = Limits(), num_channels: int = 3
) -> UInt8[np.ndarray, "Y X C"]:
    """The pixels of the file in a URL, see `data_of_url`."""
    return read(data_of_url(url, limits), limits, num_channels)


def data_of_url(url: str, limits: Limits = Limits()) -> bytes:
    """The file in data:image/png;base64,... or .../jpeg; no other URL is read or fetched.

    The type that the URL names is not trusted: `read` looks at the content.
    """
    head, comma, _ = url[:64].partition(",")
    kind, *rest = head.removeprefix("data:").split(";")
    if not comma or not url.startswith("data:") or kind not in _MEDIA_TYPES or rest != ["base64"]:
        raise ImageError(
            "expected a URL that holds its image, data:image/png;base64,... or "
            f"data:image/jpeg;base64,..., got {url[:40]!r}; nothing is fetched from elsewhere"
        )
    begin = len(head) + 1
    if (len(url) - begin) * 3 // 4 > limits.max_bytes + 2:
        raise ImageError(
            f"expected an image of at most {limits.max_bytes} bytes, got about "
            f"{(len(url) - begin) * 3 // 4}; make it smaller"
        )
    try:
        return base64.b64decode(url[begin:], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"expected base64 behind {head!r}, got other text: {error}") from None


def fitted_sides(shape: VisionConfig, sides: tuple[int, int], max_patches: int) -> tuple[int, int]:
    """The height and width to which `fitted` scales an image, before it is padded."""
    square, most = shape.patch_size * shape.merge_size, max_patches // shape.merge_size**2
    if most < 1:
        raise ImageError(
            f"expected room for a square of {shape.merge_size**2} patches, got {max_patches}"
        )
    scale = square * math.sqrt(most / math.prod(sides))
    height, width = sides
    while math.ceil(height / square) * math.ceil(width / square) > most:
        height, width = (max(1, int(side * scale)) for side in sides)
        scale *= 0.98  # sides are rounded up to whole squares, so once may not do
    return height, width


def fitted(
    shape: VisionConfig, image_YXC: UInt8[np.ndarray, "Y X C"], max_patches: int
) -> UInt8[np.ndarray, "Y X C"]:
    """The image in whole squares of at most `max_patches` patches. ImageError where none fits."""
    height, width = fitted_sides(shape, image_YXC.shape[:2], max_patches)
    if (height, width) != image_YXC.shape[:2]:
        image_YXC = _resized(image_YXC, height, width)
    square = shape.patch_size * shape.merge_size
    return np.pad(image_YXC, ((0, -height % square), (0, -width % square), (0, 0)))


def num_slots(shape: VisionConfig, sides: tuple[int, int], max_patches: int) -> int:
    """The positions that an image takes as `fitted` returns it."""
    square = shape.patch_size * shape.merge_size
    return math.prod(math.ceil(side / square) for side in fitted_sides(shape, sides, max_patches))


def _resized(image_YXC: np.ndarray, height: int, width: int) -> np.ndarray:
    channels = image_YXC.shape[2]
    image = Image.fromarray(image_YXC[..., 0] if channels == 1 else image_YXC)
    made = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    return made.reshape(height, width, channels)
