"""Greetings with a rubric of style: a name to greet, in the language and manner of the house.

    reward = 1 if all parts hold, else, for a greeting, a tenth of the share that holds

    language   as the user's          name     the user's is in the answer
    greeting   a word that greets     ending   a full stop; in Korean after the polite "yo"
    short      at most 24 characters

`flawed` gives answers that break one part, for data in which style is to be learned from pairs.
People with a style of their own break STYLE_FLAWS; a wrong name is no style.
"""

import random
from collections.abc import Sequence
from typing import Any

from kanana_jax.rollouts import task
from kanana_jax.rollouts.task import Score, Task, TaskFamily
from kanana_jax.rollouts.tasks.problem import Language
from kanana_jax.rollouts.tools import Message

LONGEST = 24  # characters
STYLE_FLAWS = "ending", "short", "language"
FLAWS = *STYLE_FLAWS, "name", "other name"
_PARTIAL = 0.1

_NAMES = (
    ("Mina", "미나"), ("Jun", "준"), ("Sora", "소라"), ("Minsu", "민수"), ("Hana", "하나"),
    ("Yuna", "유나"), ("Jiho", "지호"), ("Dani", "다니"), ("Bora", "보라"), ("Siu", "시우"),
    ("Arin", "아린"), ("Doha", "도하"), ("Gaon", "가온"), ("Haru", "하루"), ("Nari", "나리"),
    ("Rumi", "루미"), ("Taeo", "태오"), ("Woori", "우리"), ("Yejun", "예준"), ("Suho", "수호"),
    ("Ara", "아라"), ("Bina", "비나"), ("Chaeri", "채리"), ("Dami", "다미"), ("Eunu", "은우"),
    ("Garam", "가람"), ("Hyeri", "혜리"), ("Iseo", "이서"), ("Jia", "지아"), ("Kina", "키나"),
    ("Lia", "리아"), ("Mirae", "미래"), ("Noah", "노아"), ("Onyu", "온유"), ("Rina", "리나"),
    ("Seha", "세하"), ("Tami", "타미"), ("Uri", "유리"), ("Wona", "원아"), ("Yuri", "율이"),
)  # fmt: skip
_ASKS: dict[Language, tuple[str, ...]] = {
    "en": (
        "I am {}.",
        "{} is here.",
        "It is {}.",
        "I, {}, am back.",
        "Call me {}.",
        "{}, hi.",
        "{} again.",
        "Me, {}.",
    ),
    "ko": (
        "{}예요.",
        "{} 왔어요.",
        "저는 {}.",
        "{} 왔네요.",
        "{}라고 해요.",
        "{}입니다.",
        "또 {}예요.",
        "나 {}.",
    ),
}
_ANSWERS: dict[Language, tuple[str, ...]] = {
    "en": ("Hello {}.", "Welcome {}.", "Good to see you {}."),
    "ko": ("{}님 반가워요.", "{}님 안녕하세요.", "{}님 어서 와요."),
}
_GREETINGS: dict[Language, tuple[str, ...]] = {
    "en": ("Hello", "Welcome", "Good to see you"),
    "ko": ("반가워", "안녕", "어서 와"),
}
_ENDINGS: dict[Language, str] = {"en": ".", "ko": "요."}
_MORE: dict[Language, str] = {
    "en": " So very glad to see you here.",
    "ko": " 저는 오늘 정말 아주 기쁘네요.",
}


def _draw(rng: random.Random, language: Language, level: int) -> Task:
    who, pattern = rng.randrange(len(_NAMES)), rng.randrange(len(_ASKS["en"]))
    name = _NAMES[who][language == "ko"]
    return Task(
        family="small_talk",
        language=language,
        level=level,
        content=f"small_talk {who} {pattern}",
        messages=(task.user(_ASKS[language][pattern].format(name)),),
        goal={"name": name},
        oracle=(task.assistant(rng.choice(_ANSWERS[language]).format(name)),),
    )


def _verify(given: Task, messages: Sequence[Message], state: Any) -> Score:
    said, language = task.answer(messages), given.language
    parts = {
        "language": _is_in(language, said),
        "name": given.goal["name"] in said,
        "greeting": any(word in said for word in _GREETINGS[language]),
        "ending": said.endswith(_ENDINGS[language]) and not said.endswith(".."),
        "short": 0 < len(said) <= LONGEST,
    }
    share = sum(parts.values()) / len(parts)
    reward = 1.0 if all(parts.values()) else _PARTIAL * share * parts["greeting"]
    return Score(reward=reward, parts={name: float(holds) for name, holds in parts.items()})


def _is_in(language: Language, said: str) -> bool:
    """Whether all its letters are of the language."""
    letters = [letter for letter in said if letter.isalpha()]
    are_hangul = [not letter.isascii() for letter in letters]
    return bool(letters) and (all(are_hangul) if language == "ko" else not any(are_hangul))


def flawed(given: Task, rng: random.Random, flaws: Sequence[str] = FLAWS) -> str:
    """An answer that breaks one part of the rubric, in one of the ways in `flaws`."""
    right, language = given.oracle[-1]["content"], given.language
    other: Language = "en" if language == "ko" else "ko"
    match rng.choice(flaws):
        case "ending":
            return right.removesuffix(".").removesuffix("요")
        case "short":
            return right + _MORE[language]
        case "language":
            return rng.choice(_ANSWERS[other]).format(given.goal["name"])
        case "other name":
            others = [pair[language == "ko"] for pair in _NAMES]
            others.remove(given.goal["name"])
            return right.replace(given.goal["name"], rng.choice(others))
        case _:
            return right.replace(given.goal["name"], "").strip().replace("  ", " ")


FAMILY = TaskFamily(name="small_talk", levels=(1,), draw=_draw, verify=_verify)
