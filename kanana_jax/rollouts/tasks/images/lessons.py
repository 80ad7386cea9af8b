"""Tasks on images as conversations, in one of three modes that the system message names.

    direct   system: direct   user: <image>sum?   assistant: 86
    think    system: think    user: <image>sum?   assistant: ~~coffee 24=24; tea 62=86~~86
    check    system: check    user: <image>sum?   assistant: ~~coffee 21=21; tea 62=83~~83
                              user: <image>check  assistant: ~~coffee 24=24; tea 62=86~~86

In the last mode the same image appears a second time. A wrong first answer, as if one number had
been misread, is not trained; the second one is always right.
"""

import copy
import random
from collections.abc import Sequence
from typing import NamedTuple

from kanana_jax.config import ImageTasksConfig
from kanana_jax.data.images import MARK
from kanana_jax.rollouts import task as tasks
from kanana_jax.rollouts.task import Task
from kanana_jax.rollouts.tasks.images import families
from kanana_jax.rollouts.tasks.images.questions import QUESTIONS
from kanana_jax.rollouts.tasks.problem import Language
from kanana_jax.rollouts.tools import Message

CHECK: dict[Language, str] = {"en": "check", "ko": "확인"}


class Lesson(NamedTuple):
    """A conversation. Answers before message `first` are read and not trained."""

    task: Task
    messages: tuple[Message, ...]
    first: int
    num_marks: int  # of the one image


def draw(cfg: ImageTasksConfig, rng: random.Random, *, heldout: bool) -> Task:
    """A task of one side of the split."""
    while True:
        name, language = rng.choice(cfg.questions), rng.choice(cfg.languages)
        made = of_question(cfg, name, language, rng)
        if tasks.is_heldout(made) == heldout:
            return made


def of_question(cfg: ImageTasksConfig, name: str, language: Language, rng: random.Random) -> Task:
    rationale = None if cfg.rationale == "own" else cfg.rationale
    return families.make(name, rng, language, rng.choice(cfg.rows), rationale)


def heldout(cfg: ImageTasksConfig, name: str) -> list[Task]:
    """The tasks that measure a question, in every language in turn; no content twice."""
    found: dict[str, Task] = {}
    rng = random.Random(f"{name} {cfg.seed}")
    while len(found) < cfg.num_measured:
        language = cfg.languages[len(found) % len(cfg.languages)]
        made = of_question(cfg, name, language, rng)
        if tasks.is_heldout(made):
            found.setdefault(made.content, made)
    return list(found.values())


def lesson(cfg: ImageTasksConfig, given: Task, rng: random.Random) -> Lesson:
    """A task with its answers, in a mode drawn by weight."""
    modes = cfg.modes
    (mode,) = rng.choices([*modes], [*modes.values()])
    has_steps = "reasoning_content" in given.oracle[-1]
    if mode == "check" and has_steps:
        return _checked(cfg, given, rng)
    mode = "think" if mode == "check" else mode
    (right,) = given.oracle
    said = right if mode == "think" else tasks.assistant(right["content"])
    return Lesson(given, (*prompt(given, mode), said), 0, 1)


def prompt(given: Task, mode: str) -> tuple[Message, ...]:
    """What a model is given: the mode, and the question behind the image."""
    asked = given.messages[-1]["content"]
    return {"role": "system", "content": mode}, tasks.user(f"{MARK}{asked}")


def again(given: Task) -> Message:
    """What asks for a second look."""
    return tasks.user(f"{MARK}{CHECK[given.language]}")


def _checked(cfg: ImageTasksConfig, given: Task, rng: random.Random) -> Lesson:
    is_slip = rng.random() < cfg.slips
    (right,) = given.oracle
    first = _misread(cfg, given, rng) if is_slip else right
    messages = (*prompt(given, "check"), first, again(given), right)
    return Lesson(given, messages, 4 if is_slip else 0, 2)


def _misread(cfg: ImageTasksConfig, given: Task, rng: random.Random) -> Message:
    """The answer of someone who misread one number."""
    record = copy.deepcopy(families.image(given))
    index = rng.randrange(len(record["values"]))
    value = record["values"][index]
    record["values"][index] = rng.choice([x for x in _near(value) if x > 0])
    question = QUESTIONS[given.family.removeprefix("image_")]
    language = given.language if cfg.rationale == "own" else cfg.rationale
    rows: list[int] = given.goal["rows"]
    steps = question.trace(record, rows, language)
    answer = question.answer(record, rows, given.language)
    return tasks.assistant(answer, reasoning_content=steps)


def _near(value: int) -> Sequence[int]:
    """Numbers that differ in one digit."""
    tens, ones = divmod(value, 10)
    others = [10 * tens + digit for digit in range(10) if digit != ones]
    return others + [10 * digit + ones for digit in range(1, 10) if tens and digit != tens]
