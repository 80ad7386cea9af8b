"""Conversations with images or sounds as prompts.

In a format of ours, one stands at each mark in a user's message. A foreign template is given parts
{"type": "image"} and {"type": "text"}, and an image stands at each occurrence of the id that the
model's files name for images; such a template has no place for sounds. Either way there must be as
many places as images, so text that spells a mark or that id is refused.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kanana_jax.data import DataError, images, inserted
from kanana_jax.data import chat as formats
from kanana_jax.data.inserted import PLACEHOLDER, Encoded
from kanana_jax.generate import chat
from kanana_jax.generate.load import Loaded, checked


def encode(
    loaded: Loaded,
    messages: list[dict[str, Any]],
    spans: Sequence[range],
    tools: Sequence[formats.Tool] | None = None,
    mark: str = images.MARK,
    **variables: Any,
) -> Encoded:
    """The ids of a conversation in which `mark` stands for each image or sound.

    `spans` are the slots of each. ChatError where the model or its template supports none.
    """
    if loaded.template is not None:
        variables = {k: value for k, value in variables.items() if loaded.template.reads(k)}
    if loaded.own_format is not None and not variables:
        fmt, used = loaded.own_format
        try:
            said, known = checked(messages, tools)
            return inserted.encode(fmt, used, fmt.render(said, known, True), spans, mark)
        except DataError as error:
            raise chat.ChatError(str(error)) from error
    if loaded.template is None:
        raise chat.ChatError(chat.no_template_message(loaded.directory))
    if mark != images.MARK:
        raise chat.ChatError("the chat template of this model has no place for sounds")
    if loaded.image_id is None:
        raise chat.ChatError(
            "the files of this model name no token that stands for images; import it from its "
            "published folder with --images"
        )
    text = loaded.template.render([_in_parts(one) for one in messages], tools=tools, **variables)
    ids = loaded.tokenizer.encode_marked(text)
    return _at_ids(ids, loaded.image_id, spans)


def _in_parts(message: dict[str, Any]) -> dict[str, Any]:
    first, *rest = message["content"].split(images.MARK)
    if not rest:
        return message
    parts = [{"type": "text", "text": first}] if first else []
    for text in rest:
        parts.append({"type": "image"})
        parts += [{"type": "text", "text": text}] if text else []
    return message | {"content": parts}


def _at_ids(ids: Sequence[int], image_id: int, spans: Sequence[range]) -> Encoded:
    """Each `image_id` becomes the slots of an image."""
    count = sum(one == image_id for one in ids)
    if count != len(spans):
        raise chat.ChatError(
            f"expected the chat template to write the token of an image for each of {len(spans)} "
            f"images, got {count}"
        )
    found, slots, left = [], [], iter(spans)
    for one in ids:
        span = next(left) if one == image_id else None
        found += [one] if span is None else [PLACEHOLDER] * len(span)
        slots += [-1] if span is None else [*span]
    return Encoded(found, [formats.Origin.USER] * len(found), np.array(slots, np.int32))
