"""Images of a chat: parts {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}.

Only URLs that contain their image are read, so the server fetches nothing. The limits on an image's
bytes and pixels are checked before it is decoded. It is made smaller where a request lacks room.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from kanana_jax import model
from kanana_jax.data import chat as formats
from kanana_jax.data import images
from kanana_jax.generate import media_prompts
from kanana_jax.generate.load import Loaded
from kanana_jax.generate.serve import fields
from kanana_jax.generate.serve.fields import bad, kind_of

_DETAILS = ("auto", "low", "high")  # accepted, though this server has one size


@dataclasses.dataclass(frozen=True)
class ImageLimits:
    """Limits of a request."""

    num_patches: int  # of all its images together
    max_images: int = 8
    max_pixels: int = 2**24  # of an image


@dataclasses.dataclass(frozen=True)
class Prompt:
    """The ids of a prompt, and what stands in place of some."""

    ids: list[int]
    features: model.Features | None = None


def url_of(param: str, part: Mapping[str, Any]) -> str:
    """The URL of a part; raises ApiError with status 400."""
    left = dict(part)
    del left["type"]
    value = left.pop("image_url", None)
    fields.refuse_others(left, {}, f"{param}.")
    if not isinstance(value, dict) or not isinstance(value.get("url"), str):
        raise bad(f"{param}.image_url", f"must be an object with a url, got {kind_of(value)}")
    if value.get("detail", "auto") not in _DETAILS:
        raise bad(f"{param}.image_url.detail", f"must be one of {', '.join(_DETAILS)}")
    fields.refuse_others({k: x for k, x in value.items() if k not in ("url", "detail")}, {}, param)
    return value["url"]


def prompt(
    loaded: Loaded,
    messages: list[dict[str, Any]],
    urls: Sequence[str],
    limits: ImageLimits | None,
    tools: Sequence[formats.Tool] | None,
    variables: Mapping[str, Any],
) -> Prompt:
    """Decodes images and encodes text; ApiError names the image that cannot be used."""
    if not urls:
        return Prompt(loaded.chat_ids(messages, tools, **variables))
    shape = loaded.cfg.vision
    assert shape is not None and limits is not None  # else `messages.parse` refuses images
    if len(urls) > limits.max_images:
        raise bad("messages", f"must have at most {limits.max_images} images, got {len(urls)}")
    room, most = limits.num_patches // len(urls), images.Limits(max_pixels=limits.max_pixels)
    patches = []
    for number, url in enumerate(urls, start=1):
        try:
            pixels = images.of_data_url(url, most, shape.num_channels)
            patches.append(images.of_image(shape, images.fitted(shape, pixels, room)))
        except images.ImageError as error:
            raise bad("messages", f"image {number}: {error}") from None
    spans, begin = [], 0
    for one in patches:
        spans.append(range(begin, begin := begin + one.num_slots(shape.merge_size)))
    encoded = media_prompts.encode(loaded, messages, spans, tools, **variables)
    count = sum(len(one.places) for one in patches)
    row = images.row_of(patches, count, encoded.slots, shape.patch_values)
    return Prompt(encoded.ids, row)
