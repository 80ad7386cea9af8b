"""Writing about a topic under one to three constraints; the first gives the size.

reward = share of the constraints that are satisfied, 0 if the size is not one of them or the
         text is not about the topic
"""

import random
from collections.abc import Sequence
from typing import Any

from kanana_jax.rollouts import task
from kanana_jax.rollouts.environments.constraints import checks, texts
from kanana_jax.rollouts.environments.constraints.checks import Constraint
from kanana_jax.rollouts.task import Score, Task, TaskFamily
from kanana_jax.rollouts.tasks.problem import Language
from kanana_jax.rollouts.tools import Message

_KEYS = ("title", "note", "text", "name")
_MARKS = ("!", "?", ".")
_CROSSED = 4  # the place of an answer in the other language
_PHRASES = {
    "words": ("in {count} words", "어절 {count}개"),
    "sentences": ("in {count} sentences", "문장 {count}개"),
    "lines": ("in {count} lines", "{count}줄"),
    "json": ("as JSON with {shown}", "JSON으로, 키는 {shown}"),
    "contains": ('with "{word}"', '"{word}" 넣기'),
    "lacks": ('without "{word}"', '"{word}" 빼기'),
    "ends": ('ending in "{mark}"', '"{mark}" 끝'),
    "lower_case": ("all lower case", "모두 소문자"),
    "polite": ("in a polite style", "해요체"),
}
_IN_OTHER = {"en": "in Korean", "ko": "영어로"}


def _draw(rng: random.Random, language: Language, level: int) -> Task:
    topic, size = rng.choice(texts.TOPICS), _size(rng)
    # The keys of an object are English, and its end is no mark.
    places = sorted(rng.sample(range(3 if size["kind"] == "json" else 5), level - 1))
    index, mark, start = rng.randrange(6), rng.choice(_MARKS), rng.randrange(6)

    def constraints_in(asked: Language) -> tuple[Language, list[Constraint]]:
        """For a prompt in a language: the language of the text, and its constraints."""
        other: Language = "en" if asked == "ko" else "ko"
        written = other if _CROSSED in places else asked
        return written, [size, *(_further(one, written, index, mark, size) for one in places)]

    written, constraints = constraints_in(language)
    named = topic[written == "ko"]
    found = (
        text
        for text in texts.made(named, constraints, written, start)
        if all(checks.holds(text, one, written) for one in constraints)
    )
    return Task(
        family="constraints",
        language=language,
        level=level,
        content=f"constraints {_asked(topic[0], constraints_in('en')[1], 'en')}",
        messages=(task.user(_asked(topic[language == "ko"], constraints, language)),),
        goal={"topic": named, "language": written, "constraints": constraints},
        oracle=(task.assistant(next(found)),),
    )


def _size(rng: random.Random) -> Constraint:
    kind, count = rng.choice(checks.SIZES), rng.randint(3, 6)
    if kind == "json":
        return {"kind": kind, "keys": rng.sample(_KEYS, rng.randint(1, 2))}
    return {"kind": kind, "count": count if kind == "words" else 2 + count % 2}


def _further(place: int, written: str, index: int, mark: str, size: Constraint) -> Constraint:
    """Where an English text is to be in lower case, a Korean one is to be polite."""
    words = texts.WORDS[written]
    match place:
        case 0:
            return {"kind": "contains", "word": words[index]}
        case 1:
            return {"kind": "lacks", "word": words[(index + 1) % len(words)]}
        case 2 if size["kind"] == "json":
            return {"kind": "lacks", "word": words[(index + 2) % len(words)]}
        case 2:
            return {"kind": "ends", "mark": mark}
        case 3:
            return {"kind": "lower_case" if written == "en" else "polite"}
    return {"kind": "language"}


def _asked(topic: str, constraints: Sequence[Constraint], language: Language) -> str:
    place = int(language == "ko")
    phrases = [
        _IN_OTHER[language]
        if one["kind"] == "language"
        else _PHRASES[one["kind"]][place].format(shown=", ".join(one.get("keys", ())), **one)
        for one in constraints
    ]
    about = f"Write about {topic}: " if language == "en" else f"주제는 {topic}: "
    return f"{about}{', '.join(phrases)}"


def _verify(given: Task, messages: Sequence[Message], state: Any) -> Score:
    text, language = task.answer(messages), given.goal["language"]
    constraints = given.goal["constraints"]
    held = [checks.holds(text, one, language) for one in constraints]
    parts = {
        f"{i}_{one['kind']}": float(is_held)
        for i, (one, is_held) in enumerate(zip(constraints, held, strict=True))
    }
    parts["topic"] = float(_is_about(text, given.goal["topic"], language))
    reward = sum(held) / len(held) if held[0] and parts["topic"] else 0.0
    return Score(reward=reward, parts=parts)


def _is_about(text: str, topic: str, language: str) -> bool:
    """Whether this topic and none of the others is named: a heap of texts is about nothing."""
    return checks.named(text, [one for pair in texts.TOPICS for one in pair], language) == [topic]


FAMILY = TaskFamily(name="constraints", levels=(1, 2, 3), draw=_draw, verify=_verify)
