"""Conversations with sounds as prompts, for models that have an encoder of them.

Letters: F frames, M bands.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from kanana_jax import model
from kanana_jax.data import chat as formats
from kanana_jax.generate import media_prompts
from kanana_jax.generate.features import Room
from kanana_jax.generate.load import Loaded
from kanana_jax.speech import chats


class SoundPrompt(NamedTuple):
    """The ids of a prompt, and the sounds that stand among them."""

    ids: list[int]
    sounds: model.Sounds


def encode(
    loaded: Loaded,
    messages: list[dict[str, Any]],
    heard: Sequence[Float[np.ndarray, "F M"]],
    room: Room,
    tools: Sequence[formats.Tool] | None = None,
    **variables: Any,
) -> SoundPrompt:
    """A conversation in which `speech.chats.MARK` stands for each of these sounds.

    No more of them than `room` has, and none longer. ChatError where the model or its template has
    no sounds.
    """
    shape = loaded.cfg.audio
    assert shape is not None  # who has sounds has asked
    spans = chats.spans(shape, [len(one) for one in heard], room.sound_frames)
    found = media_prompts.encode(loaded, messages, spans, tools, mark=chats.MARK, **variables)
    row = chats.row_of(shape, heard, len(heard), room.sound_frames, found.slots)
    return SoundPrompt(found.ids, row)
