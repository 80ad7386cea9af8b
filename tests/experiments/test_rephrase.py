"""Claims about the closed world of the rephrase experiment, and about its verdict."""

import collections
import json

import pytest
from test_staged_experiments import holds, made

from experiments import rephrase_smollm2
from experiments.rephrase import settings, verdict, wording, world
from kanana_jax import config
from kanana_jax.data.curate.document import of_text
from kanana_jax.rollouts.tasks import is_right


def _texts(name):
    return [text.decode() for text in world.TEXTS[name]()]


@pytest.mark.parametrize("name", settings.TEXTS)
def test_every_text_has_all_facts_of_its_person(name):
    people, texts = world.people(), _texts(name)
    assert len(texts) % len(people) == 0
    for place, text in enumerate(texts):
        one = people[place % len(people)]
        assert one.name in text and all(value in text for value in one.values)


def test_many_rewrites_differ_from_each_other_and_the_first_is_the_only_one():
    many, count = _texts("many"), world.NUM_PEOPLE
    assert many[:count] == _texts("one") and len(many) == count * world.NUM_REWRITES
    assert len(set(many)) > 0.999 * len(many)
    assert not set(many) & set(_texts("raw"))


def test_questions_that_are_measured_are_of_people_whose_questions_no_text_has():
    measured, read = world.measured_questions(), "\n".join(_texts("questions"))
    by_name = {one.name: one for one in world.people()}
    assert len(measured) == world.NUM_MEASURED * len(wording.RELATIONS)
    for asked in measured:
        (name,) = [name for name in by_name if f" {name}" in asked.prompt]
        assert name not in read and asked.answer in by_name[name].values
        assert is_right(asked, f"= {asked.answer}") and not is_right(asked, "= nothing")


def test_frequent_answers_get_few_questions_right():
    counts = collections.Counter(one.answer for one in world.measured_questions())
    frequent = sum(max(counts[value] for value in one.values) for one in wording.RELATIONS)
    assert world.best_constants() == pytest.approx(frequent / counts.total())
    assert world.best_constants() < 0.2


def test_arms_read_as_much_and_each_its_own_text():
    sweep = settings.experiment()
    for arm, text in zip(sweep.arms, settings.TEXTS, strict=True):
        read, ask = sweep.base.edited(arm.edits).stages
        assert sum(weight > 0 for weight in read.weights) == 1
        assert read.weights[list(world.TEXTS).index(text)] == 1.0
        assert ask.weights[-1] == 0.5


def _runs(folder, **accuracies):
    return [
        made(folder, getattr(settings, arm), seed, {}, lr=0, heldout_accuracy=one + 0.01 * seed)
        for arm, one in accuracies.items()
        for seed in range(3)
    ]


@pytest.mark.parametrize(
    ("accuracies", "wanted"),
    [
        ({"RAW": 0.2, "ONE": 0.4, "MANY": 0.8}, [True, True, True, True]),
        ({"RAW": 0.2, "ONE": 0.8, "MANY": 0.4}, [False, True, True, True]),
        ({"RAW": 0.5, "ONE": 0.1, "MANY": 0.4}, [True, False, False, True]),
        ({"RAW": 0.05, "ONE": 0.05, "MANY": 0.06}, [None, None, None, False]),
        ({"MANY": 0.8}, [None, None, None, True]),
    ],
)
def test_claims_follow_the_accuracies(tmp_path, accuracies, wanted):
    found = holds(verdict.judge(_runs(tmp_path, **accuracies)))
    assert [one for one, asked in zip(found, wanted, strict=True) if asked is not None] == [
        one for one in wanted if one is not None
    ]


def test_rewrites_of_a_model_are_those_that_passed_and_else_the_raw_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(config.ConfigError, match=r"as the module .* says"):
        list(rephrase_smollm2.all_rewrites())
    rephrase_smollm2.write_people("people.jsonl")
    written = (tmp_path / "people.jsonl").read_text(encoding="utf-8").splitlines()
    raw = [json.loads(line)["text"] for line in written]
    assert raw == _texts("raw")
    lines = (
        of_text(f"{raw[1]} Twice.", f"people.jsonl, {style}").line(
            of=of_text(raw[1], "people.jsonl").id, style=style
        )
        for style in ("wiki", "faq")
    )
    rephrase_smollm2.REWRITTEN.parent.mkdir()
    rephrase_smollm2.REWRITTEN.write_text("".join(lines), encoding="utf-8")
    every = [text.decode() for text in rephrase_smollm2.all_rewrites()]
    first = [text.decode() for text in rephrase_smollm2.first_rewrites()]
    assert every == [raw[0], *[f"{raw[1]} Twice."] * 2, *raw[2:]]
    assert first == [raw[0], f"{raw[1]} Twice.", *raw[2:]]
