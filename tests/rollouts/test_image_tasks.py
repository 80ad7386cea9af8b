"""Questions on drawn images: answers are found again from the record, and mistakes are seen."""

import copy
import dataclasses
import random
import re

import numpy as np
import pytest

from kanana_jax import config
from kanana_jax.batch import Batch
from kanana_jax.data.images import MARK
from kanana_jax.rollouts import task
from kanana_jax.rollouts.tasks.images import FAMILIES, families, lessons, render, rows, words
from kanana_jax.rollouts.tasks.images.questions import QUESTIONS
from kanana_jax.rollouts.tasks.images.rows import Recipe

CFG = config.ImageTasksConfig()
VISION = config.VisionConfig(
    patch_size=8,
    num_channels=1,
    hidden_size=16,
    num_layers=1,
    num_heads=1,
    intermediate_size=16,
)
DATA = config.DataConfig(seq_len=640, batch_size=2, image_patches=1280)
CASES = [(name, language) for name in QUESTIONS for language in ("en", "ko")]


def _drawn(name, language, count=20, num_rows=4):
    return [families.make(name, random.Random(n), language, num_rows) for n in range(count)]


def _cells(record):
    """What stands in the image, by name."""
    column = record["language"] == "ko"
    names = words.KINDS[record["kind"]].names
    return {
        names[n][column]: value for n, value in zip(record["names"], record["values"], strict=True)
    }


def _solved(name, given):
    """Once more, from the words of the question and the record alone."""
    record, asked = families.image(given), given.messages[-1]["content"]
    cells, ko = _cells(record), given.language == "ko"
    named = [one for one in cells if re.search(rf"(^|\W|_){re.escape(one)}", f" {asked}")]
    if name == "read":
        return str(cells[max(named, key=len)])
    if name == "sum":
        return str(sum(cells.values()))
    if name == "filter":
        listed = asked.partition("without ")[2].rstrip("?") if not ko else asked.split(" 빼고")[0]
        return str(sum(v for one, v in cells.items() if one not in listed.split(", ")))
    if name == "compare":
        listed = asked.partition(": ")[2].rstrip("?").split(", ")
        return max(listed, key=cells.__getitem__)
    if name == "audit":
        is_right = sum(cells.values()) == record["total"]
        return ("맞음" if is_right else "틀림") if ko else ("right" if is_right else "wrong")
    shown = [f"{one} {value}" for one, value in cells.items()]
    total = [f"{'합계' if ko else 'total'} {record['total']}"] if record["total"] else []
    return ", ".join(shown + total)


@pytest.mark.parametrize(("name", "language"), CASES)
def test_answers_are_right(name, language):
    for given in _drawn(name, language):
        if name == "compare" and len({*given.goal["rows"]}) == 1:
            continue  # all numbers are equal
        score = families.FAMILIES[given.family].verify(given, given.oracle, given.state)
        assert (score.reward, score.parts["answer"]) == (1.0, 1.0)
        assert given.goal["answer"] == _solved(name, given), given.messages


@pytest.mark.parametrize(("name", "language"), CASES)
def test_a_wrong_answer_earns_nothing_and_a_wrong_step_is_seen(name, language):
    for given in _drawn(name, language, count=5):
        family, (right,) = FAMILIES[given.family], given.oracle
        for wrong in (right["content"] + "0", "", f" {right['content']} or not"):
            said = task.assistant(wrong)
            assert family.verify(given, [said], given.state).reward == 0.0, wrong
        assert family.verify(given, [], given.state).reward == 0.0
        trace = right.get("reasoning_content")
        if trace is None:
            continue
        whole = family.verify(given, [right], given.state).parts["trace"]
        steps = trace.split("; ")
        assert whole == 1.0
        changed = "; ".join([*steps[:-1], steps[-1] + "7"])
        said = task.assistant(right["content"], reasoning_content=changed)
        found = family.verify(given, [said], given.state)
        assert found.reward == 1.0
        assert found.parts["trace"] == pytest.approx(1 - 1 / len(steps))


def test_half_of_the_printed_totals_are_wrong_and_none_by_chance_right():
    drawn = _drawn("audit", "en", count=200)
    answers = [one.goal["answer"] for one in drawn]
    assert 70 < answers.count("wrong") < 130
    for one in drawn:
        record = families.image(one)
        assert (sum(record["values"]) == record["total"]) == (one.goal["answer"] == "right")
        assert record["total"] > 0


@pytest.mark.parametrize("kind", words.KINDS)
def test_an_image_is_drawn_of_its_record_alone_and_shows_every_number(kind):
    name = "audit" if kind in ("receipt", "table") else "read"
    given = next(
        one for n in range(200) for one in [families.make(name, random.Random(n), "ko", 3)]
        if families.image(one)["kind"] == kind
    )  # fmt: skip
    record = families.image(given)
    page = render(record)
    np.testing.assert_array_equal(page, render(copy.deepcopy(record)))
    assert page.shape == (16 * 6, 160) and page.dtype == np.uint8
    for n in range(3):
        changed = copy.deepcopy(record)
        changed["values"][n] += -1 if changed["values"][n] > 2 else 1
        assert (render(changed) != page).any(), (kind, n)
        changed = copy.deepcopy(record)
        changed["names"][n] = next(x for x in range(10) if x not in record["names"])
        assert (render(changed) != page).any(), (kind, n)
    if record["total"]:
        assert (render(record | {"total": record["total"] + 1}) != page).any()


def test_languages_have_the_same_contents_and_sides_none_in_common():
    for name in QUESTIONS:
        pairs = zip(_drawn(name, "en"), _drawn(name, "ko"), strict=True)
        assert all(one.content == other.content for one, other in pairs)
    rng = random.Random(0)
    training = {lessons.draw(CFG, rng, heldout=False).content for _ in range(200)}
    heldout = {one.content for name in QUESTIONS for one in lessons.heldout(CFG, name)}
    assert len(heldout) == len(QUESTIONS) * CFG.num_measured
    assert not training & heldout


def test_a_first_answer_that_was_misread_is_not_trained_and_the_second_one_is():
    cfg = dataclasses.replace(CFG, direct=0.0, think=0.0, slips=1.0, rows=(3,))
    recipe = Recipe(tasks=cfg, vision=VISION, data=DATA)
    for n in range(8):
        given = families.make("sum", random.Random(n), "en", 3)
        made = lessons.lesson(cfg, given, random.Random(n))
        first, second = (one for one in made.messages if one["role"] == "assistant")
        assert second == given.oracle[0]
        score = FAMILIES["image_sum"].verify(given, [first], given.state)
        assert score.reward == 0.0 and score.parts["trace"] < 1
        found = rows._encoded(recipe, made, rows.patches_of(VISION, given), 0)
        trained = bytes(
            one for one, origin in zip(found.ids, found.origins, strict=True)
            if origin == rows.Origin.MODEL and one < 256
        ).decode()  # fmt: skip
        assert second["content"] in trained and first["reasoning_content"] not in trained
        # The image stands twice, at the same slots.
        stands = found.slots[found.slots >= 0]
        np.testing.assert_array_equal(stands, np.tile(np.arange(len(stands) // 2), 2))


def test_a_row_is_filled_with_lessons_and_their_images():
    recipe = Recipe(tasks=CFG, vision=VISION, data=DATA)
    row = rows.row(recipe, 3)
    again = rows.row(recipe, 3)
    for one, other in zip([*row[:6], *row.features], [*again[:6], *again.features], strict=True):
        np.testing.assert_array_equal(one, other)
    assert (row.tokens != rows.row(recipe, 4).tokens).any()
    of_row = row.features
    num_lessons = row.segment_ids.max()
    assert num_lessons == of_row.image_ids.max() >= 2
    of_square = of_row.image_ids.reshape(-1, 4)[:, 0]
    stands = of_row.slots >= 0
    # A position reads an image of its own lesson.
    np.testing.assert_array_equal(of_square[of_row.slots[stands]], row.segment_ids[stands])
    assert row.loss_mask.any() and not row.loss_mask[:-1][stands[1:]].any()
    assert Batch.stacked([row, again]).features.pixels.shape == (2, 1280, 64)


def test_a_row_without_room_for_a_lesson_says_how_much_it_takes():
    small = dataclasses.replace(DATA, image_patches=64)
    with pytest.raises(config.ConfigError, match=r"positions and \d+ patches, got 640 and 64"):
        rows.row(Recipe(tasks=CFG, vision=VISION, data=small), 0)


def test_every_mode_asks_with_the_image_in_front():
    for mode in ("direct", "think", "check"):
        system, asked = lessons.prompt(_drawn("sum", "ko", 1)[0], mode)
        assert system == {"role": "system", "content": mode}
        assert asked["content"] == f"{MARK}합은?"
