"""Images as arrays of pixels, their patches, and conversations in which they stand."""

from kanana_jax.data.images.encoding import MARK, PLACEHOLDER, EncodedImages, encode, num_marks
from kanana_jax.data.images.files import (
    ImageError,
    Limits,
    data_of_url,
    fitted,
    num_slots,
    of_data_url,
    read,
)
from kanana_jax.data.images.patches import Patches, of_image, row_of, slots_of, stacked

__all__ = [
    "MARK",
    "PLACEHOLDER",
    "EncodedImages",
    "ImageError",
    "Limits",
    "Patches",
    "data_of_url",
    "encode",
    "fitted",
    "num_marks",
    "num_slots",
    "of_data_url",
    "of_image",
    "read",
    "row_of",
    "slots_of",
    "stacked",
]
