"""A family that pays for what solves nothing is found out by what it pays for."""

import dataclasses

import pytest

from kanana_jax import config
from kanana_jax.rollouts import audit, environments, task
from kanana_jax.rollouts.environments import lookup, products
from kanana_jax.rollouts.task import Score

NAMED = ("chain_sum", "letters")  # in which few answers are possible


def test_all_families_but_the_named_ones_pass():
    families = list(environments.FAMILIES.values())
    found = audit.check(families, allow=NAMED, languages=["en"], count=200)
    assert {earned["oracle"] for earned in found.values()} == {1.0}
    assert {name for name, earned in found.items() if audit.too_much(earned)} == set(NAMED)


def _paying(name, family, pays):
    """The family with a verifier that pays also where `pays(task, answer, state)`."""

    def verify(one, messages, state):
        score = family.verify(one, messages, state)
        paid = pays(one, task.answer(messages), state)
        return Score(reward=max(score.reward, float(paid)), parts=score.parts)

    return dataclasses.replace(family, name=name, verify=verify)


def _goal(one):
    return one.goal["answer"]


@pytest.mark.parametrize(
    ("family", "pays", "kinds"),
    [
        (lookup.FAMILY, lambda one, text, state: text == "", {"constant"}),
        (lookup.FAMILY, lambda one, text, state: text == "yes", {"constant"}),
        (lookup.FAMILY, lambda one, text, state: _goal(one) in text, {"echo", "junk"}),
        (lookup.FAMILY, lambda one, text, state: text.isdigit(), {"constant", "other"}),
        (lookup.FAMILY, lambda one, text, state: len(text) > 60, {"junk"}),
        (products.FAMILY, lambda one, text, state: text == _goal(one), {"no tools"}),
        (products.FAMILY, lambda one, text, state: bool(state["results"]), {"junk", "other"}),
    ],
)
def test_what_pays_too_much_is_named_with_its_figures(family, pays, kinds):
    paying = _paying("paying", family, pays)
    (earned,) = audit.measure([paying], languages=["en"], count=40, seed=0).values()
    assert set(audit.too_much(earned)) == kinds
    with pytest.raises(config.ConfigError, match=r"paying: oracle 1\.00, constant [01]\.\d\d, "):
        audit.check([paying], count=40)
    assert audit.check([paying], allow=["paying"], count=40)


def test_a_family_whose_oracle_is_not_paid_is_refused_even_by_name():
    def verify(one, messages, state):
        return Score(reward=0.5, parts={})

    broken = dataclasses.replace(lookup.FAMILY, verify=verify)
    with pytest.raises(config.ConfigError, match=r"lookup: oracle 0\.50"):
        audit.check([broken], allow=["lookup"], count=40)


def test_the_command_prints_a_table_and_refuses(capsys):
    with pytest.raises(SystemExit) as ended:
        audit.main(["--family=letters,lookup", "--count=60"])
    assert ended.value.code == 2
    shown = capsys.readouterr()
    header, letters, looked = shown.out.splitlines()
    assert header.split()[:3] == ["family", "oracle", "constant"]
    assert letters.startswith("letters ") and "*" in letters and "*" not in looked
    assert "letters: oracle 1.00" in shown.err and "lookup" not in shown.err
    audit.main(["--family=letters,lookup", "--count=60", "--allow=letters"])


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--family=poetry", "expected a family among"),
        ("--count=0", "count must lie in"),
        ("--count=3", "expected more than 4 tasks to audit"),
        ("--language=de", "language[0] must be one of en, ko"),
        ("--allow=lookup", "expected allowed families among letters"),
    ],
)
def test_settings_that_cannot_be_used_end_the_command_with_2(flag, message, capsys):
    with pytest.raises(SystemExit) as ended:
        audit.main(["--family=letters", "--count=20", flag])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
