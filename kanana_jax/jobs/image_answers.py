"""The evaluator of questions about held-out images, asked in each mode that a model has learned.

    heldout_QUESTION_MODE          the share of right answers      each with _stderr
    heldout_QUESTION_MODE_ko, _en  the same by language
    heldout_QUESTION_blind         direct answers, with an image of zeros in its place
    heldout_audit_f1_MODE          F1 of finding wrong totals; "first" is the answer before a check
    heldout_QUESTION_tokens_MODE   tokens drawn for an answer

Answers are drawn greedily, so what is measured is a function of the weights alone.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kanana_jax import model
from kanana_jax.data import chat, images
from kanana_jax.data.images import Patches
from kanana_jax.generate import Request, Room, Sampling
from kanana_jax.generate.answers import Answer
from kanana_jax.jobs import sampling
from kanana_jax.jobs.job import Built
from kanana_jax.rollouts.task import Message, Task
from kanana_jax.rollouts.tasks.images import families, lessons, record, rows
from kanana_jax.rollouts.tasks.images.rows import Recipe
from kanana_jax.train import fit

# An image alone is a hundred positions.
_CHUNK, _PROMPTS_AT_ONCE = 128, 16
_CHECKED = ("sum", "filter", "audit")  # questions whose answers are looked at twice


class _Asked(NamedTuple):
    """A question on an image, in one mode, with what was said before."""

    task: Task
    patches: Patches
    messages: tuple[Message, ...]


class _Said(NamedTuple):
    text: str
    message: Message | None  # None: the format cannot read it
    is_right: bool
    num_tokens: int


def evaluator(recipe: Recipe, built: Built, every: int) -> fit.Evaluator:
    """Over images.num_measured held-out tasks of each question."""
    tasks = {name: lessons.heldout(recipe.tasks, name) for name in recipe.tasks.questions}
    drawn = {
        name: [(one, rows.patches_of(recipe.vision, one)) for one in of_question]
        for name, of_question in tasks.items()
    }

    def measure(weights: model.Weights) -> dict[str, float]:
        sample = _sampler(recipe, built, weights)
        found: dict[str, float] = {}
        for name, pairs in drawn.items():
            found |= _of_question(recipe, name, pairs, sample)
        return found

    return fit.Evaluator("heldout_images", every, measure)


def _of_question(
    recipe: Recipe, name: str, pairs: Sequence[tuple[Task, Patches]], sample: sampling.Sample
) -> dict[str, float]:
    weights = recipe.tasks.modes
    found: dict[str, float] = {}

    def ask(mode: str, given: Sequence[tuple[Task, Patches]]) -> list[_Said]:
        asked = [_Asked(one, patches, lessons.prompt(one, mode)) for one, patches in given]
        return _answers(recipe, asked, sample)

    if weights["direct"]:
        found |= _summary(name, "direct", pairs, ask("direct", pairs))
        blank = [(one, patches._replace(pixels=patches.pixels * 0)) for one, patches in pairs]
        found |= _share(f"heldout_{name}_blind", [one.is_right for one in ask("direct", blank)])
    if weights["think"]:
        found |= _summary(name, "think", pairs, ask("think", pairs))
    if weights["check"] and name in _CHECKED:
        first = ask("check", pairs)
        asked = [
            _Asked(
                one,
                patches,
                (*lessons.prompt(one, "check"), said.message or _of_text(said), lessons.again(one)),
            )
            for (one, patches), said in zip(pairs, first, strict=True)
        ]
        found |= _summary(name, "first", pairs, first)
        found |= _summary(name, "check", pairs, _answers(recipe, asked, sample))
    return found


def _of_text(said: _Said) -> Message:
    return {"role": "assistant", "content": said.text}


def _sampler(recipe: Recipe, built: Built, weights: model.Weights) -> sampling.Sample:
    most = max(_prompt_length(recipe, count) for count in recipe.tasks.rows)
    cfg = recipe.tasks
    patches = families.num_pixels(max(cfg.rows)) // recipe.vision.patch_size**2
    place = sampling.Place(
        cfg.num_rows,
        most + 2 * cfg.max_tokens,
        room=Room(image_patches=patches),
        chunk=_CHUNK,
        prompts_at_once=min(_PROMPTS_AT_ONCE, cfg.num_rows),
    )
    end = chat.end_id(chat.PLAIN, recipe.tokenizer)
    return sampling.of(weights, built, recipe.tokenizer.decode, end, place)


def _prompt_length(recipe: Recipe, num_rows: int) -> int:
    """Twice the positions of an image of `num_rows` rows, and the most that is said around it."""
    side = recipe.vision.patch_size * recipe.vision.merge_size
    slots = families.num_pixels(num_rows) // side**2
    return 2 * slots + 160


def _answers(recipe: Recipe, asked: Sequence[_Asked], sample: sampling.Sample) -> list[_Said]:
    drawn = sample([_request(recipe, one) for one in asked])
    return [_read(one.task, answer) for one, answer in zip(asked, drawn, strict=True)]


def _request(recipe: Recipe, asked: _Asked) -> Request:
    slots = asked.patches.num_slots(recipe.vision.merge_size)
    encoded = rows.prompt(recipe, asked.messages, slots)
    room = len(asked.patches.places)
    return Request(
        prompt=encoded.ids,
        max_tokens=recipe.tasks.max_tokens,
        sampling=Sampling(temperature=0.0),
        features=images.row_of([asked.patches], room, encoded.slots, recipe.vision.patch_values),
    )


def _read(given: Task, answer: Answer) -> _Said:
    try:
        message: dict | None = {**chat.PLAIN.parse(answer.text)}
    except chat.FormatError:
        message = None
    family = families.FAMILIES[given.family]
    score = family.verify(given, [message], given.state) if message else None
    return _Said(answer.text, message, score is not None and score.reward == 1.0, len(answer.ids))


def _summary(
    name: str, mode: str, pairs: Sequence[tuple[Task, Patches]], said: Sequence[_Said]
) -> dict[str, float]:
    right = [one.is_right for one in said]
    found = _share(f"heldout_{name}_{mode}", right)
    found[f"heldout_{name}_tokens_{mode}"] = float(np.mean([one.num_tokens for one in said]))
    languages = dict.fromkeys(one.language for one, _ in pairs)
    for language in languages if len(languages) > 1 else ():
        here = [
            is_right
            for is_right, (one, _) in zip(right, pairs, strict=True)
            if one.language == language
        ]
        found |= _share(f"heldout_{name}_{mode}_{language}", here)
    if name == "audit":
        wrong = [not record.is_right(families.image(one)) for one, _ in pairs]
        found[f"heldout_audit_f1_{mode}"] = f1(wrong, right)
    return found


def f1(is_wrong: Sequence[bool], is_right: Sequence[bool]) -> float:
    """F1 of calling totals wrong; an answer that is not right says the opposite of the truth."""
    called = [wrong == right for wrong, right in zip(is_wrong, is_right, strict=True)]
    hits = sum(wrong and said for wrong, said in zip(is_wrong, called, strict=True))
    total = sum(is_wrong) + sum(called)
    return 2.0 * hits / total if total else 0.0


def _share(key: str, holds: Sequence[bool]) -> dict[str, float]:
    mean, size = float(np.mean(holds)), len(holds)
    stderr = math.sqrt(mean * (1 - mean) / (size - 1)) if size > 1 else math.nan
    return {key: mean, f"{key}_stderr": stderr}
