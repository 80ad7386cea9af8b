"""Conversations with sounds as prompts, for models that have a sound encoder.

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

    The sounds must be no more and no longer than `room` allows. ChatError where the model or its
    template supports no sounds.
    """
    shape = loaded.cfg.audio
    assert shape is not None  # a caller with sounds has checked
    spans = chats.spans(shape, [len(one) for one in heard], room.sound_frames)
    found = media_prompts.encode(loaded, messages, spans, tools, mark=chats.MARK, **variables)
    row = chats.row_of(shape, heard, len(heard), room.sound_frames, found.slots)
    return SoundPrompt(found.ids, row)
