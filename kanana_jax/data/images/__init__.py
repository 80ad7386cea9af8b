"""Images as arrays of pixels, their patches, and conversations in which they stand."""

from kanana_jax.data.images.encoding import MARK, PLACEHOLDER, EncodedImages, encode
from kanana_jax.data.images.patches import Patches, of_image, row_of, slots_of, stacked

__all__ = [
    "MARK",
    "PLACEHOLDER",
    "EncodedImages",
    "Patches",
    "encode",
    "of_image",
    "row_of",
    "slots_of",
    "stacked",
]
