"""Images as arrays of pixels and their patches."""

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

MARK = "<|image|>"  # in text, where an image stands

__all__ = [
    "MARK",
    "ImageError",
    "Limits",
    "Patches",
    "data_of_url",
    "fitted",
    "num_slots",
    "of_data_url",
    "of_image",
    "read",
    "row_of",
    "slots_of",
    "stacked",
]
