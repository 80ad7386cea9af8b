"""What stands in the place of a prompt's tokens: rows of `model.Features`, of one size."""

from typing import NamedTuple

import numpy as np

from kanana_jax import model
from kanana_jax.generate.requests import RequestError


class Room(NamedTuple):
    """The most that a prompt's features may have together; engines are compiled for it."""

    image_patches: int = 0
    sounds: int = 0
    sound_frames: int = 0  # of each


NO_ROOM = Room()


def check(features: model.Features, room: Room, num_tokens: int) -> None:
    """Checks a prompt's features, which have no batch axis; RequestError where they do not fit."""
    if isinstance(features, model.Images):
        if len(features.places) > room.image_patches:
            raise RequestError(
                f"images of a prompt must have at most {room.image_patches} patches, got "
                f"{len(features.places)}; make them smaller, or start the engine with more room"
            )
    elif (
        len(features.frames) > room.sounds
        or max(features.num_frames, default=0) > room.sound_frames
        or features.frames.shape[1] != room.sound_frames
    ):
        raise RequestError(
            f"sounds of a prompt must be at most {room.sounds} with room for {room.sound_frames} "
            f"frames each, got {len(features.frames)} with room for {features.frames.shape[1]} and "
            f"at most {max(features.num_frames, default=0)}; shorten them, or start the engine "
            "with more room"
        )
    if len(features.slots) != num_tokens:
        raise RequestError(
            f"features.slots must say what stands at each of the {num_tokens} positions of the "
            f"prompt, got {len(features.slots)}"
        )


def padded(features: model.Features, room: Room) -> model.Features:
    """A row padded to the size of `room`. Its slots, which are not read here, are left out."""
    size = room.image_patches if isinstance(features, model.Images) else room.sounds

    def fill(x: np.ndarray) -> np.ndarray:
        return np.pad(x, ((0, size - len(x)), *[(0, 0)] * (x.ndim - 1)))

    return type(features)(*map(fill, features[:-1]), slots=np.zeros(0, np.int32))
