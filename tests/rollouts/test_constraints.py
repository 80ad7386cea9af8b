"""What a text holds, in English and by the rules of Korean."""

import pytest

from kanana_jax.rollouts import environments, task
from kanana_jax.rollouts.environments.constraints import checks


def _size(kind, count):
    return {"kind": kind, "count": count}


@pytest.mark.parametrize(
    ("text", "constraint", "language", "is_held"),
    [
        ("The cat is calm.", _size("words", 4), "en", True),
        ("The cat - is calm.", _size("words", 4), "en", True),  # a dash is no word
        ("고양이는 정말 좋다.", _size("words", 3), "ko", True),  # eojeol, not morphemes
        ("고양이는정말 좋다.", _size("words", 3), "ko", False),
        ("Cats nap. Dogs run!", _size("sentences", 2), "en", True),
        ("Cats nap for 3.5 hours.", _size("sentences", 1), "en", True),
        ("Cats nap. Dogs run", _size("sentences", 2), "en", False),
        ("고양이는 좋다. 바다는 넓다.", _size("sentences", 2), "ko", True),
        ("고양이는 3.5점이다.", _size("sentences", 1), "ko", True),
        ("고양이는 좋다. Cats nap.", _size("sentences", 2), "ko", False),
        (" ".join(["word"] * 13) + ".", _size("sentences", 1), "en", False),
        ("one\ntwo", _size("lines", 2), "en", True),
        ("one\n\ntwo", _size("lines", 3), "en", False),
        ('{"note": "a", "name": "b"}', {"kind": "json", "keys": ["name", "note"]}, "en", True),
        ('{"note": "a"}', {"kind": "json", "keys": ["name", "note"]}, "en", False),
        ('{"note": "a", "more": "b"}', {"kind": "json", "keys": ["note"]}, "en", False),
        ('{"note": 1}', {"kind": "json", "keys": ["note"]}, "en", False),
        ('See {"note": "a"}', {"kind": "json", "keys": ["note"]}, "en", False),
        ("[" * 1500, {"kind": "json", "keys": ["note"]}, "en", False),
        ("A Calm, cat.", {"kind": "contains", "word": "calm"}, "en", True),
        ("A calmer cat.", {"kind": "contains", "word": "calm"}, "en", False),
        ("A Calmer cat.", {"kind": "lacks", "word": "calm"}, "en", False),
        ("A cat.", {"kind": "lacks", "word": "calm"}, "en", True),
        ("", {"kind": "lacks", "word": "calm"}, "en", False),
        ("a" * 2001, {"kind": "lacks", "word": "calm"}, "en", False),
        ("Calm!", {"kind": "ends", "mark": "!"}, "en", True),
        ("Calm! ", {"kind": "ends", "mark": "!"}, "en", True),
        ("Calm!.", {"kind": "ends", "mark": "!"}, "en", False),
        ("calm!", {"kind": "lower_case"}, "en", True),
        ("Calm!", {"kind": "lower_case"}, "en", False),
        ("!", {"kind": "lower_case"}, "en", False),
        ("고양이 cat", {"kind": "language"}, "en", False),
        ("고양이는 좋다", {"kind": "language"}, "ko", True),
        ("cat 고양이", {"kind": "language"}, "ko", False),
        ("좋아요. 편해요!", {"kind": "polite"}, "ko", True),
        ("좋아요. 편하다.", {"kind": "polite"}, "ko", False),
        ("", {"kind": "polite"}, "ko", False),
    ],
)
def test_a_constraint_is_held_or_not(text, constraint, language, is_held):
    assert checks.holds(text, constraint, language) == is_held


@pytest.mark.parametrize(
    ("text", "topic", "language", "is_named"),
    [
        ("The Cat, is calm.", "cat", "en", True),
        ("The catalog.", "cat", "en", False),
        ("고양이는 좋다.", "고양이", "ko", True),
        ("새고양이는 좋다.", "고양이", "ko", False),
    ],
)
def test_a_topic_is_named_as_a_word(text, topic, language, is_named):
    others = ["sea", "바다"]
    assert checks.named(text, [topic, *others], language) == [topic] * is_named


def _score(answer):
    constraints = [{"kind": "words", "count": 4}, {"kind": "ends", "mark": "!"}]
    family = environments.FAMILIES["constraints"]
    one = task.Task(
        family="constraints",
        language="en",
        level=2,
        content="",
        messages=(task.user("Write about cat: in 4 words, ending in !"),),
        oracle=(),
        goal={"topic": "cat", "language": "en", "constraints": constraints},
    )
    return family.verify(one, [task.assistant(answer)], None)


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        ("The cat is calm!", 1.0),
        ("The cat is calm.", 0.5),
        ("The cat is!", 0.0),  # another size
        ("The dog is calm!", 0.0),  # about nothing that was asked
        ("The cat loves music!", 0.0),  # about two topics
    ],
)
def test_the_share_held_is_paid_for_a_text_of_the_size_about_the_topic(answer, reward):
    score = _score(answer)
    assert score.reward == reward
    assert set(score.parts) == {"0_words", "1_ends", "topic"}


def test_every_kind_of_constraint_is_asked_for_in_both_languages():
    family = environments.FAMILIES["constraints"]
    kinds = {
        (one.language, constraint["kind"])
        for one in environments.tasks_of([family], ["en", "ko"], seed=0, count=400, heldout=False)
        for constraint in one.goal["constraints"]
    }
    both = {*checks.SIZES, "contains", "lacks", "ends", "lower_case", "language", "polite"}
    assert kinds == {(language, kind) for language in ("en", "ko") for kind in both}
