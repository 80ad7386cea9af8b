"""Measures of questions on images, with a model whose answers are written here."""

import concurrent.futures
import dataclasses
import random

import numpy as np
import pytest

from kanana_jax import config
from kanana_jax.data import chat
from kanana_jax.data.chat.format import turn_text
from kanana_jax.generate.answers import Answer
from kanana_jax.jobs import drawn_images, image_answers
from kanana_jax.model import presets
from kanana_jax.rollouts import task
from kanana_jax.rollouts.tasks.images import families, record, rows
from kanana_jax.rollouts.tasks.images.rows import Recipe

pytestmark = pytest.mark.slow

VISION = config.VisionConfig(
    patch_size=8,
    num_channels=1,
    hidden_size=16,
    num_layers=1,
    num_heads=1,
    intermediate_size=16,
)
RECIPE = Recipe(
    tasks=config.ImageTasksConfig(),
    vision=VISION,
    data=config.DataConfig(seq_len=640, batch_size=2, image_patches=1280),
)


def _pairs(name, count=8):
    languages = ("en", "ko") * (count // 2)
    drawn = [families.make(name, random.Random(n), one, 3) for n, one in enumerate(languages)]
    return [(one, rows.patches_of(VISION, one)) for one in drawn]


class Scripted:
    """Answers each round of requests by a function of the task and the round."""

    def __init__(self, pairs, say):
        self._pairs, self._say, self.rounds = pairs, say, []

    def __call__(self, requests):
        self.rounds.append(requests)
        said = [
            self._say(len(self.rounds) - 1, given, request)
            for (given, _), request in zip(self._pairs, requests, strict=True)
        ]
        texts = [turn_text(chat.PLAIN, one) for one in said]
        return [Answer((*range(5),), text, True) for text in texts]


def _is_blank(request):
    return not request.features.pixels.any()


def test_every_mode_is_asked_and_a_blank_image_too():
    """Direct answers, answers to a blank image, steps, and answers before and after a check."""
    pairs = _pairs("audit")

    def say(number, given, request):
        (right,) = given.oracle
        if number == 3:  # the first of two answers says that every total is right
            return task.assistant("맞음" if given.language == "ko" else "right")
        return task.assistant("no") if _is_blank(request) else right

    sample = Scripted(pairs, say)
    found = image_answers._of_question(RECIPE, "audit", pairs, sample)
    assert [_is_blank(one[0]) for one in sample.rounds] == [False, True, False, False, False]
    wrong = np.mean([not record.is_right(families.image(one)) for one, _ in pairs])
    assert 0 < wrong < 1
    assert found["heldout_audit_direct"] == found["heldout_audit_check_ko"] == 1.0
    assert found["heldout_audit_blind"] == 0.0
    assert found["heldout_audit_first"] == pytest.approx(1 - wrong)
    assert (found["heldout_audit_f1_first"], found["heldout_audit_f1_check"]) == (0.0, 1.0)
    assert found["heldout_audit_tokens_think"] == 5.0
    # The second look follows the first answer, and the image appears twice.
    first, second = sample.rounds[3][0], sample.rounds[4][0]
    assert bytes(x for x in second.prompt if x < 256).endswith(b"check\nassistant: ")
    assert (second.features.slots >= 0).sum() == 2 * (first.features.slots >= 0).sum()


def test_a_model_of_direct_answers_is_not_asked_for_others():
    pairs = _pairs("sum")
    recipe = Recipe(
        tasks=config.ImageTasksConfig(think=0.0, check=0.0), vision=VISION, data=RECIPE.data
    )
    sample = Scripted(pairs, lambda number, given, request: given.oracle[0])
    found = image_answers._of_question(recipe, "sum", pairs, sample)
    assert len(sample.rounds) == 2
    assert {name for name in found if "think" in name or "check" in name} == set()


@pytest.mark.parametrize(
    ("wrong", "right", "f1"),
    [
        ([True, False], [True, True], 1.0),
        ([True, False], [False, True], 0.0),
        ([True, False], [True, False], 2 / 3),  # both are called wrong
        ([False, False], [True, True], 0.0),
    ],
)
def test_f1_is_of_totals_that_are_called_wrong(wrong, right, f1):
    assert image_answers.f1(wrong, right) == pytest.approx(f1)


def test_rows_of_processes_are_those_of_one_and_held_out_ones_differ():
    source = drawn_images.DrawnSource(RECIPE, None)
    whole = source.batch(1, None)
    half = drawn_images.DrawnSource(RECIPE, [1]).batch(1, None)
    for one, other in zip([*whole[:6], *whole.features], [*half[:6], *half.features], strict=True):
        np.testing.assert_array_equal(one[1:], other)
    held = rows.batch(RECIPE, 1, [0, 1], heldout=True)
    assert (held.tokens != whole.tokens).any()


@pytest.mark.long
def test_processes_that_draw_change_no_batch_and_stay(monkeypatch):
    pools = []

    def counted(*args):
        pools.append(pool := executor(*args))
        return pool

    executor = concurrent.futures.ProcessPoolExecutor
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", counted)
    tasks = config.ImageTasksConfig(num_workers=2)
    alone = drawn_images.DrawnSource(RECIPE, None)
    recipe = Recipe(tasks=tasks, vision=VISION, data=RECIPE.data)
    drawn = drawn_images.DrawnSource(recipe, None)
    for number in (0, 1, 2, 3, 40, 41):  # a run that goes back leaves some out
        pair = (source.batch(number, None)[:6] for source in (alone, drawn))
        for one, other in zip(*pair, strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(pools) == 1


@pytest.mark.parametrize("missing", ["vision", "room", "paths"])
def test_a_job_that_draws_images_needs_an_encoder_and_room_and_no_text(missing):
    model = presets.tiny() if missing == "vision" else None
    data = {
        "vision": {},
        "room": {"image_patches": 0},
        "paths": {"image_patches": 8, "paths": ("a.txt",)},
    }[missing]
    shape = model or dataclasses.replace(presets.tiny(), vision=VISION)
    with pytest.raises(config.ConfigError, match=r"set both|must be empty"):
        drawn_images.Config(name="x", question="?", model=shape, data=config.DataConfig(**data))
