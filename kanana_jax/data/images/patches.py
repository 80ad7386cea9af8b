"""From arrays of pixels to the patches of `Images`, and the positions that they stand at.

Squares of merge_size x merge_size patches lie together, as `Images` says.

Letters: Y rows of pixels, X columns, C channels; P patches, Z numbers of a patch; M slots.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from kanana_jax.batch import Images
from kanana_jax.config import ConfigError, VisionConfig


class Patches(NamedTuple):
    """One image."""

    pixels: UInt8[np.ndarray, "P Z"]
    places: Int32[np.ndarray, "P 4"]  # row, column, rows, columns

    def num_slots(self, merge_size: int) -> int:
        return len(self.places) // merge_size**2


def of_image(shape: VisionConfig, image_YXC: UInt8[np.ndarray, "Y X C"]) -> Patches:
    """The patches of an image, square by square; ConfigError where its sides do not fit.

    Sides must be multiples of patch_size x merge_size, as `data.images.fitted` makes them.
    """
    size, merge = shape.patch_size, shape.merge_size
    height, width, channels = image_YXC.shape
    if height % (size * merge) or width % (size * merge) or channels != shape.num_channels:
        raise ConfigError(
            f"expected an image with {shape.num_channels} channels and sides that are multiples of "
            f"{size * merge} pixels, got {image_YXC.shape}; resize it first"
        )
    rows, columns = height // size, width // size
    squares = (rows // merge, merge, columns // merge, merge)
    cut = image_YXC.reshape(rows // merge, merge, size, columns // merge, merge, size, channels)
    pixels = cut.transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * columns, -1)
    places = np.empty((rows * columns, 4), np.int32)
    for axis, index in enumerate(np.indices((rows, columns))):
        places[:, axis] = index.reshape(squares).transpose(0, 2, 1, 3).ravel()
    places[:, 2:] = rows, columns
    return Patches(pixels, places)


def row_of(
    images: Sequence[Patches], num_patches: int, slots_S: Int32[np.ndarray, "S"], values: int
) -> Images:
    """The images of one row, padded to `num_patches`; columns have no batch axis.

    `values` is how many numbers a patch has, for a row without images. ConfigError where there is
    no room.
    """
    count = sum(len(one.places) for one in images)
    if count > num_patches:
        raise ConfigError(
            f"expected at most data.image_patches = {num_patches} patches in a row, got {count}; "
            "raise it or make images smaller"
        )
    pixels = np.zeros((num_patches, values), np.uint8)
    places = np.zeros((num_patches, 4), np.int32)
    image_ids = np.zeros(num_patches, np.int32)
    begin = 0
    for number, one in enumerate(images, start=1):
        end = begin + len(one.places)
        pixels[begin:end], places[begin:end], image_ids[begin:end] = one.pixels, one.places, number
        begin = end
    return Images(pixels, places, image_ids, slots_S)


def stacked(rows: Sequence[Images]) -> Images:
    """A batch of rows."""
    return Images(*map(np.stack, zip(*rows, strict=True)))


def slots_of(is_image_S: np.ndarray) -> Int32[np.ndarray, "S"]:
    """Slots in their order at the positions of images; -1 at the others."""
    return np.where(is_image_S, np.cumsum(is_image_S) - 1, -1).astype(np.int32)
