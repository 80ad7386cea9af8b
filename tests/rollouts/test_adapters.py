"""Tasks of other packages: which calls match, and what oracles earn where they are installed."""

import importlib.util

import pytest

from kanana_jax import config
from kanana_jax.rollouts import audit, environments, grading, sandbox, task, tools
from kanana_jax.rollouts.adapters import call_matching, function_calls, gym

with_gym = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed"
)
with_calls = pytest.mark.skipif(
    importlib.util.find_spec("bfcl_eval") is None, reason="bfcl-eval is not installed"
)
GOLD = [{"area": {"base": [10], "unit": ["cm", "in cm", ""], "at": [{"x": [1.5], "y": [2, ""]}]}}]


@pytest.mark.parametrize(
    ("arguments", "is_right"),
    [
        ({"base": 10, "at": {"x": 1.5}}, True),
        ({"base": 10, "unit": "CM.", "at": {"x": 1.5, "y": 2}}, True),
        ('{"base": 10, "at": {"x": 1.5}}', True),
        ({"base": 10, "at": {"x": 1.5, "y": 3}}, False),
        ({"base": 10.0, "at": {"x": 1.5}}, False),
        ({"base": "10", "at": {"x": 1.5}}, False),
        ({"base": True, "at": {"x": 1.5}}, False),
        ({"base": 10, "unit": "m", "at": {"x": 1.5}}, False),
        ({"base": 10, "at": {"y": 2}}, False),
        ({"base": 10}, False),
        ({"base": 10, "at": {"x": 1.5}, "more": 1}, False),
        ("{", False),
        (None, False),
    ],
)
def test_a_call_is_one_that_the_gold_call_allows(arguments, is_right):
    made = [{"function": {"name": "area", "arguments": arguments}}]
    assert call_matching.matches(made, GOLD) == is_right
    assert not call_matching.matches([{"function": {"name": "size", "arguments": arguments}}], GOLD)
    assert not call_matching.matches(made * 2, GOLD)


def test_calls_match_in_any_order_and_each_gold_call_once():
    gold = [{"f": {"a": [1, 2]}}, {"f": {"a": [1]}}]
    one, two = tools.call("f", a=1), tools.call("f", a=2)
    assert call_matching.matches([one, two], gold) and call_matching.matches([two, one], gold)
    assert call_matching.matches([one, one], gold)
    assert not call_matching.matches([two, two], gold)
    assert not call_matching.matches([], gold)


@pytest.mark.parametrize(
    "made", [[None], [{}], [{"function": 1}], [{"function": {"name": ["f"]}}], [[]]]
)
def test_what_is_no_call_matches_nothing(made):
    assert not call_matching.matches(made, [{"f": {}}])


@with_gym
def test_items_with_one_right_text_are_tasks():
    names = gym.names()
    assert {"gcd", "count_bits", "caesar_cipher"} <= set(names)
    assert not {"countdown", "puzzle24", "simple_integration", "n_queens"} & set(names)
    family = environments.of("kanana_jax.rollouts.adapters.gym:gcd")
    drawn = environments.tasks_of([family], ["en"], seed=0, count=20, heldout=False)
    assert drawn == environments.tasks_of([family], ["en"], seed=0, count=20, heldout=False)
    replies = [grading.Reply(task=one, messages=one.oracle, state=None) for one in drawn]
    wrong = [
        grading.Reply(task=one, messages=[task.assistant("1 or so")], state=None) for one in drawn
    ]
    with sandbox.Pool() as pool:
        assert {one.value["reward"] for one in grading.grade_all(pool, replies)} == {1.0}
        assert {one.value["reward"] for one in grading.grade_all(pool, wrong)} == {0.0}


@with_gym
@pytest.mark.parametrize("name", ["countdown", "puzzle24", "codeio", "nothing"])
def test_families_that_execute_text_are_refused(name):
    with pytest.raises(config.ConfigError, match="a family with one right text"):
        environments.make(gym.family(name), "en", 0, 0)


@with_calls
def test_gold_calls_earn_all_and_functions_are_on_one_side():
    families = [function_calls.FAMILY]
    training = environments.tasks_of(families, ["en"], seed=0, count=300, heldout=False)
    heldout = environments.tasks_of(families, ["en"], seed=0, count=60, heldout=True)
    assert {one.content for one in training} & {one.content for one in heldout} == set()
    replies = [grading.Reply(task=one, messages=one.oracle, state=None) for one in training]
    assert {grading.score(reply).reward for reply in replies} == {1.0}
    with sandbox.Pool() as pool:
        graded = grading.grade_all(pool, replies[:20])
    assert {one.value["reward"] for one in graded} == {1.0}
    found = audit.check(families, languages=["en"], count=60)
    assert found[function_calls.NAME]["oracle"] == 1.0


@pytest.mark.skipif(
    importlib.util.find_spec("bfcl_eval") is not None, reason="bfcl-eval is installed"
)
def test_missing_data_files_are_asked_for():
    with pytest.raises(config.ConfigError, match="pip install --no-deps bfcl-eval"):
        environments.make(function_calls.FAMILY, "en", 0, 0)


def test_a_family_of_another_module_is_graded_in_the_sandbox():
    """A call opens no file, so the module is imported before."""
    made = [tools.call("area", base=10, at={"x": 1.5})]
    one = task.Task(
        family=function_calls.NAME,
        language="en",
        level=1,
        content="",
        messages=(task.user("Area?"),),
        oracle=(task.assistant("", tool_calls=made),),
        goal={"calls": GOLD},
    )
    with sandbox.Pool(num_workers=1) as pool:
        (outcome,) = grading.grade_all(
            pool, [grading.Reply(task=one, messages=one.oracle, state=None)]
        )
    assert outcome == sandbox.Outcome(
        status="ok", value={"reward": 1.0, "parts": {"calls": 1.0, "called": 1.0}}
    )
