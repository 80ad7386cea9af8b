"""Texts that satisfy constraints, made of a topic, adjectives and adverbs."""

import itertools
import json
from collections.abc import Iterator, Sequence

from kanana_jax import korean
from kanana_jax.rollouts.environments.constraints.checks import Constraint

TOPICS = (
    ("cat", "고양이"), ("sea", "바다"), ("school", "학교"), ("market", "시장"), ("tree", "나무"),
    ("cloud", "구름"), ("train", "기차"), ("friend", "친구"), ("music", "음악"), ("apple", "사과"),
    ("umbrella", "우산"), ("winter", "겨울"), ("bread", "식빵"), ("garden", "정원"),
    ("kitchen", "부엌"), ("river", "강물"),
)  # fmt: skip
# Words that a text may have to contain or to lack.
WORDS = {
    "en": ("good", "calm", "old", "big", "nice", "new"),
    "ko": ("정말", "아주", "무척", "늘", "참", "꽤"),
}
_ENDS = {False: ("좋다", "많다", "편하다"), True: ("좋아요", "많아요", "편해요")}


def made(topic: str, constraints: Sequence[Constraint], language: str, start: int) -> Iterator[str]:
    """Texts that may hold the constraints; which comes first depends on `start`."""
    kinds = {one["kind"]: one for one in constraints}
    mark = kinds.get("ends", {}).get("mark", ".")
    lacked = [one["word"] for one in constraints if one["kind"] == "lacks"]
    wanted = [one["word"] for one in constraints if one["kind"] == "contains"]
    others = [word for word in WORDS[language] if word not in (*lacked, *wanted)]
    others = others[start % len(others) :] + others[: start % len(others)]
    size = constraints[0]
    count = size.get("count", len(size.get("keys", ())))
    for length in range(2, 9):
        chosen = (wanted + others)[: max(length, len(wanted))]
        sentence = _english if language == "en" else _korean
        variants = (sentence(topic, chosen, length, i, "polite" in kinds) for i in range(count))
        one, *more = itertools.islice(variants, count)
        if "lower_case" not in kinds:
            one, *more = [text[:1].upper() + text[1:] for text in (one, *more)]
        match size["kind"]:
            case "words":
                yield one + mark
            case "json":
                pairs = zip(size["keys"], (one, *more), strict=True)
                yield json.dumps(dict(pairs), ensure_ascii=False)
            case "lines":
                yield "\n".join(text + mark for text in (one, *more))
            case _:
                yield " ".join(text + mark for text in (one, *more))


def _english(topic: str, chosen: Sequence[str], length: int, i: int, is_polite: bool) -> str:
    """The cat is good and calm: `length` words where possible."""
    turned = [*chosen[i % len(chosen) :], *chosen[: i % len(chosen)]]
    adjectives = turned[: max(1, (length - 2) // 2)]
    the = ["the"] if (length - 2) % 2 == 0 else []
    return " ".join([*the, topic, "is", *" and ".join(adjectives).split()])


def _korean(topic: str, chosen: Sequence[str], length: int, i: int, is_polite: bool) -> str:
    """고양이는 정말 늘 좋다: `length` words where possible."""
    turned = [*chosen[i % len(chosen) :], *chosen[: i % len(chosen)]]
    ends = _ENDS[is_polite]
    return " ".join([korean.with_particle(topic, "은"), *turned[: length - 2], ends[i % len(ends)]])
