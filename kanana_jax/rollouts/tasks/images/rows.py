"""Rows of a batch, filled with lessons: a pure function of (settings, seed, number of the row).

Letters: S positions of a row, P patches.
"""

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kanana_jax import config
from kanana_jax.batch import Batch
from kanana_jax.data import chat, images, inserted
from kanana_jax.data.chat import Origin, reasoning
from kanana_jax.data.images import Patches
from kanana_jax.data.inserted import Encoded
from kanana_jax.data.tokenizer import Tokenizer, byte_tokenizer
from kanana_jax.rollouts.task import Task
from kanana_jax.rollouts.tasks.images import families, lessons
from kanana_jax.rollouts.tasks.images.lessons import Lesson
from kanana_jax.rollouts.tasks.images.render import render

_FORMAT = chat.PLAIN


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides every row."""

    tasks: config.ImageTasksConfig
    vision: config.VisionConfig
    data: config.DataConfig

    @property
    def tokenizer(self) -> Tokenizer:
        return _tokenizer()


@functools.cache
def _tokenizer() -> Tokenizer:
    return byte_tokenizer()


def batch(recipe: Recipe, number: int, rows: Sequence[int], heldout: bool = False) -> Batch:
    """Rows of batch `number`."""
    size = recipe.data.batch_size
    return Batch.stacked([row(recipe, number * size + one, heldout) for one in rows])


def row(recipe: Recipe, number: int, heldout: bool = False) -> Batch:
    """One row: lessons one after the other, until the next one would not fit."""
    rng = random.Random(f"row {recipe.data.seed} {number} {heldout}")
    room, room_of_patches = recipe.data.seq_len, recipe.data.image_patches
    encoded: list[Encoded] = []
    pictures: list[Patches] = []
    num_slots = 0
    while True:
        drawn = lessons.draw(recipe.tasks, rng, heldout=heldout)
        made = lessons.lesson(recipe.tasks, drawn, rng)
        picture = patches_of(recipe.vision, drawn)
        found = _encoded(recipe, made, picture, num_slots)
        room -= len(found.ids) - 1
        room_of_patches -= len(picture.places)
        if room < 0 or room_of_patches < 0:
            break
        encoded.append(found)
        pictures.append(picture)
        num_slots += picture.num_slots(recipe.vision.merge_size)
    if not encoded:
        raise config.ConfigError(
            "data.seq_len and data.image_patches must have room for a lesson of "
            f"{len(found.ids) - 1} positions and {len(picture.places)} patches, got "
            f"{recipe.data.seq_len} and {recipe.data.image_patches}; raise them"
        )
    return _joined(recipe, encoded, pictures)


def patches_of(shape: config.VisionConfig, given: Task) -> Patches:
    """The patches of a task's image; grey levels are repeated for a model that sees colours."""
    grey_YX = render(families.image(given))
    return images.of_image(shape, np.repeat(grey_YX[..., None], shape.num_channels, axis=-1))


def prompt(recipe: Recipe, messages: Sequence[lessons.Message], num_slots: int) -> Encoded:
    """What a model is given: messages, with the one image at every mark."""
    pieces = _FORMAT.render([*messages], (), True)
    said = [one["content"] for one in messages if one["role"] == "user"]
    marks = sum(text.count(images.MARK) for text in said)
    return inserted.encode(
        _FORMAT, recipe.tokenizer, pieces, [range(num_slots)] * marks, images.MARK
    )


def _encoded(recipe: Recipe, made: Lesson, picture: Patches, first_slot: int) -> Encoded:
    where = f"a lesson of {made.task.family}"
    pieces = reasoning.judged(_FORMAT, made.messages, (), made.first, "all", where)
    span = range(first_slot, first_slot + picture.num_slots(recipe.vision.merge_size))
    return inserted.encode(_FORMAT, recipe.tokenizer, pieces, [span] * made.num_marks, images.MARK)


def _joined(recipe: Recipe, encoded: Sequence[Encoded], pictures: Sequence[Patches]) -> Batch:
    length = recipe.data.seq_len
    columns: dict[str, Any] = {
        name: np.zeros(length, dtype)
        for name, dtype in zip(Batch._fields, [np.int32] * 4 + [np.float32] * 2, strict=False)
    }
    slots = np.full(length, -1, np.int32)
    begin = 0
    for number, one in enumerate(encoded, start=1):
        ids, end = np.array(one.ids, np.int32), begin + len(one.ids) - 1
        columns["tokens"][begin:end] = ids[:-1]
        columns["targets"][begin:end] = ids[1:]
        columns["positions"][begin:end] = np.arange(end - begin)
        columns["segment_ids"][begin:end] = number
        columns["loss_mask"][begin:end] = np.array(one.origins[1:]) == Origin.MODEL
        slots[begin:end] = one.slots[:-1]
        begin = end
    num_bytes = recipe.tokenizer.token_bytes_V[columns["targets"]]
    columns["target_bytes"] = (columns["loss_mask"] * num_bytes).astype(np.float32)
    of_row = images.row_of(pictures, recipe.data.image_patches, slots, recipe.vision.patch_values)
    return Batch(**columns, features=of_row)
