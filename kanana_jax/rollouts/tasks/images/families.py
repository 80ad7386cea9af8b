"""Families of tasks on images. The image is drawn from the task's state; the level is its rows.

reward = [the answer is right]
parts    answer; trace, the share of its steps that the image and the step before it bear out
"""

import functools
import random
from collections.abc import Sequence
from typing import Any

from kanana_jax.rollouts import task
from kanana_jax.rollouts.task import Score, Task, TaskFamily
from kanana_jax.rollouts.tasks.images import record as records
from kanana_jax.rollouts.tasks.images.questions import QUESTIONS
from kanana_jax.rollouts.tasks.images.record import Record
from kanana_jax.rollouts.tasks.images.render import WIDTH, height
from kanana_jax.rollouts.tasks.problem import Language
from kanana_jax.rollouts.tools import Message

LEVELS = (3, 4, 5, 6)
_MOST_OF_A_TRACE = 4000


def make(
    name: str,
    rng: random.Random,
    language: Language,
    num_rows: int,
    rationale: Language | None = None,
) -> Task:
    """A task of a question; its steps are in the language `rationale`, by default its own."""
    question = QUESTIONS[name]
    kind = rng.choice(question.kinds)
    is_wrong = name == "audit" and rng.random() < 0.5
    record = records.draw(rng, kind, language, num_rows, is_wrong=is_wrong)
    rows = question.pick(rng, record)
    answer = question.answer(record, rows, language)
    trace = question.trace(record, rows, rationale or language)
    further = {"reasoning_content": trace} if trace else {}
    return Task(
        family=f"image_{name}",
        language=language,
        level=num_rows,
        content=f"{name} {records.content(record)} {rows}",
        messages=(task.user(question.ask(record, rows, language)),),
        oracle=(task.assistant(answer, **further),),
        state={"image": record},
        goal={"answer": answer, "rows": rows},
    )


def image(given: Task) -> Record:
    """The record of a task's image."""
    return given.state["image"]


def num_pixels(num_rows: int) -> int:
    """The pixels of an image with so many rows."""
    return WIDTH * height(num_rows)


def _verify(name: str, given: Task, messages: Sequence[Message], state: Any) -> Score:
    right = float(task.answer(messages) == given.goal["answer"])
    trace = messages[-1].get("reasoning_content") if messages else None
    trace = trace.strip()[:_MOST_OF_A_TRACE] if isinstance(trace, str) else ""
    return Score(reward=right, parts={"answer": right, "trace": _share(name, given, trace)})


def _share(name: str, given: Task, trace: str) -> float:
    """The share of right steps, in the language in which most of them are right."""
    found = _steps(trace)
    shares = []
    languages: tuple[Language, ...] = ("en", "ko")
    for language in languages:
        wanted = _steps(QUESTIONS[name].trace(image(given), given.goal["rows"], language))
        same = sum(one == other for one, other in zip(found, wanted, strict=False))
        shares.append(same / max(len(found), len(wanted), 1))
    return max(shares)


def _steps(trace: str) -> list[str]:
    return [step.strip() for step in trace.split(";")] if trace else []


def _of(name: str) -> TaskFamily:
    return TaskFamily(
        name=f"image_{name}",
        levels=LEVELS,
        draw=functools.partial(make, name),
        verify=functools.partial(_verify, name),
    )


FAMILIES = {f"image_{name}": _of(name) for name in QUESTIONS}
