"""Conversations with sounds; `media_chats` says what a record holds.

A sound is a file next to the records, {"type": "audio", "path": "a.wav"}, or in them, as in
OpenAI's interface: {"type": "input_audio", "input_audio": {"data": "UklGR...", "format": "wav"}}.

Letters: T samples, F frames, M bands, S positions.
"""

import base64
import binascii
import pathlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int32

from kanana_jax.batch import Sounds
from kanana_jax.config import AudioConfig, ConfigError, DataConfig
from kanana_jax.data import media_chats, media_documents
from kanana_jax.data.errors import DataError
from kanana_jax.data.media_chats import Chat, MediaChats, Medium
from kanana_jax.data.whole_documents import WholeDocuments
from kanana_jax.speech import audio, mel
from kanana_jax.speech.errors import AudioError

MARK = "<|audio|>"  # in text, where a sound stands
_MOST_SECONDS = 600.0  # of one; how much a row has room for is checked with the encoder


class SoundError(DataError):
    """A file that cannot be read as sound here."""


def check(shape: AudioConfig) -> None:
    """Raises ConfigError unless the encoder reads the features that are made here."""
    if shape.num_bands != mel.NUM_BANDS:
        raise ConfigError(
            f"model.audio.num_bands must be {mel.NUM_BANDS}, which log-mel frames have, got "
            f"{shape.num_bands}"
        )


def read(
    cfg: DataConfig, cache_dir: pathlib.Path, report: Callable[[str], None] = lambda line: None
) -> MediaChats:
    """See `media_chats.read`."""
    return media_chats.read(SOUNDS, cfg, cache_dir, report)


def documents(found: MediaChats, shape: AudioConfig, cfg: DataConfig) -> WholeDocuments:
    """Batches of conversations. DataError where a row has no room for one of them."""
    room = Room(shape, cfg.sounds, cfg.sound_frames)
    return media_documents.documents(found, room, cfg.seq_len)


def frames(content: bytes) -> Float[np.ndarray, "F M"]:
    """The frames that the encoder reads, from a file's content."""
    return mel.log_mel(_samples(content)).astype(np.float16)


def _samples(content: bytes) -> Float[np.ndarray, "T"]:
    try:
        return audio.read(content, most_seconds=_MOST_SECONDS)
    except AudioError as error:
        raise SoundError(str(error)) from None


def _content(value: Any) -> bytes:
    data = value.get("data") if isinstance(value, dict) else None
    if not isinstance(data, str):
        raise SoundError(f"expected data in base64, got {type(data).__name__}")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SoundError(f"expected data in base64, got other text: {error}") from None


SOUNDS = Medium(
    name="audio",
    embedded="input_audio",
    mark=MARK,
    content_of=_content,
    size_of=lambda content: (len(_samples(content)) // mel.HOP,),  # as many as `frames` makes
    error=SoundError,
)


class Room(NamedTuple):
    """The room of a row, and the encoder that reads it."""

    shape: AudioConfig
    sounds: int
    sound_frames: int

    def spans(self, one: Chat) -> list[range]:
        """Each sound has slots for `sound_frames` frames; only its own stand somewhere."""
        for each in one.attachments:
            if each.size[0] > self.sound_frames:
                raise DataError(
                    f"{one.where}: expected sounds of at most data.sound_frames = "
                    f"{self.sound_frames} frames of 10 ms, got {each.size[0]}; raise it, or cut "
                    "the sound"
                )
        if len(one.attachments) > self.sounds:
            raise DataError(
                f"{one.where}: expected at most data.sounds = {self.sounds} sounds, got "
                f"{len(one.attachments)}; raise it"
            )
        return spans(self.shape, [each.size[0] for each in one.attachments], self.sound_frames)

    def num_slots(self, one: Chat) -> int:
        return len(one.attachments) * self.sound_frames // self.shape.frames_per_position

    def used(self, one: Chat) -> Fraction:
        return Fraction(len(one.attachments), self.sounds)

    def row(self, chats: Sequence[Chat], slots_S: Int32[np.ndarray, "S"]) -> Sounds:
        heard = [frames(each.read()) for one in chats for each in one.attachments]
        return row_of(self.shape, heard, self.sounds, self.sound_frames, slots_S)


def spans(shape: AudioConfig, num_frames: Sequence[int], room: int) -> list[range]:
    """The slots of sounds of `num_frames` frames, each with room for `room` frames."""
    begins = range(0, len(num_frames) * room, room)
    return [
        range(begin // shape.frames_per_position, -(-(begin + count) // shape.frames_per_position))
        for begin, count in zip(begins, num_frames, strict=True)
    ]


def row_of(
    shape: AudioConfig,
    heard: Sequence[Float[np.ndarray, "F M"]],
    sounds: int,
    room: int,
    slots_S: Int32[np.ndarray, "S"],
) -> Sounds:
    """The sounds of one row, `sounds` of `room` frames at most; columns have no batch axis."""
    frames_NFM = np.zeros((sounds, room, shape.num_bands), np.float16)
    num_frames_N = np.zeros(sounds, np.int32)
    for number, one in enumerate(heard):
        frames_NFM[number, : len(one)], num_frames_N[number] = one, len(one)
    return Sounds(frames_NFM, num_frames_N, slots_S)
