"""Oracles earn all, guesses nothing; the sides of the split share nothing; nothing raises."""

import dataclasses
import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kanana_jax import config
from kanana_jax.rollouts import calls, environments, grading, sandbox, task, tools
from kanana_jax.rollouts.tasks import LANGUAGES

FAMILIES = list(environments.FAMILIES.values())
WITH_TOOLS = [family for family in FAMILIES if family.tools]
each = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


@pytest.fixture(scope="module")
def pool():
    with sandbox.Pool(num_workers=2) as opened:
        yield opened


def _drawn(family, count=24, heldout=False, levels=(), languages=LANGUAGES, seed=3):
    return environments.tasks_of(
        [family], languages, seed=seed, count=count, heldout=heldout, levels=levels
    )


def _replayed(pool, one):
    """The oracle's calls, executed in the sandbox: what tools said, and the state after them."""
    state, said = one.state, []
    for message in one.oracle:
        if "tool_calls" in message:
            request = calls.Request(
                family=one.family, state=state, tool_calls=message["tool_calls"]
            )
            (ran,) = calls.run_all(pool, [request])
            assert ran.status == "ok"
            said, state = said + ran.messages, ran.state
    return said, state


@each
def test_the_oracle_earns_all_with_what_the_sandbox_executes(family, pool):
    if family.name == "program" and "files" not in pool.guards:
        pytest.skip("programs run only where system calls can be filtered")
    for level in family.levels:
        drawn = _drawn(family, count=8, levels=[level])
        replies = []
        for one in drawn:
            said, state = _replayed(pool, one)
            assert said == [message for message in one.oracle if message["role"] == "tool"]
            assert {named["function"]["name"] for named in one.tools} == set(family.tools)
            replies.append(grading.Reply(task=one, messages=one.oracle, state=state))
        for outcome in grading.grade_all(pool, replies):
            assert outcome.status == "ok" and outcome.value["reward"] == 1.0, outcome
            assert set(outcome.value["parts"].values()) == {1.0}


@each
def test_tasks_go_through_json(family):
    for one in _drawn(family):
        assert task.from_json(json.loads(json.dumps(task.to_json(one)))) == one
        assert one.messages[-1]["role"] == "user" and one.oracle[-1]["role"] == "assistant"


@each
def test_a_seed_and_an_index_always_give_the_same_task_in_both_languages(family):
    for index in range(20):
        english, korean = (environments.make(family, one, 5, index) for one in LANGUAGES)
        assert english == environments.make(family, "en", 5, index)
        assert (english.content, english.level) == (korean.content, korean.level)
        assert english.messages[-1]["content"].isascii()
        assert not korean.messages[-1]["content"].isascii()


@each
def test_the_sides_share_no_prompt_whatever_the_seeds(family):
    def shown(one):
        return json.dumps([one.messages, one.state], sort_keys=True)

    training = {
        shown(one): one.content for seed in range(3) for one in _drawn(family, 80, seed=seed)
    }
    heldout = {shown(one): one.content for one in _drawn(family, 40, heldout=True, seed=1)}
    assert training.keys() & heldout.keys() == set()
    assert set(training.values()) & set(heldout.values()) == set()


@each
def test_one_prompt_has_one_content(family):
    """Or a prompt could be on both sides."""
    contents = {}
    for language, index in itertools.product(LANGUAGES, range(600)):
        one = environments.make(family, language, 0, index)
        shown = json.dumps([one.messages, one.state], sort_keys=True)
        assert contents.setdefault(shown, one.content) == one.content


@pytest.mark.parametrize(
    ("name", "most"),
    [("products", 24), ("lookup", 24), ("reversing", 24), ("shop", 40), ("calendar", 40)],
)
def test_the_easiest_english_prompts_are_short(name, most):
    family = environments.FAMILIES[name]
    drawn = _drawn(family, count=100, levels=family.levels[:1], languages=["en"])
    assert max(len(one.messages[-1]["content"]) for one in drawn) <= most


def test_unknown_levels_and_too_many_tasks_are_refused():
    family = environments.FAMILIES["reversing"]
    with pytest.raises(config.ConfigError, match=r"levels of reversing among .*, got \[99\]"):
        _drawn(family, levels=[99])
    with pytest.raises(config.ConfigError, match="expected 900 training tasks of reversing"):
        _drawn(family, count=1800, levels=[3])
    with pytest.raises(config.ConfigError, match="expected a family among"):
        environments.of("poetry")


def _products(prompt):
    return str(eval(re.search(r"[\d(][\d+*()-]*", prompt)[0].rstrip("(")))


def _lookup(prompt):
    table = dict(re.findall(r"(\w+) (\d+)", prompt))
    asked = prompt.rpartition(". ")[2].rstrip("?")
    return table[next(name for name in table if asked.startswith(name))]


def _reversing(prompt):
    return re.findall("[a-h]{2,}", prompt.removeprefix("Reverse "))[-1][::-1]


def _program(prompt):
    numbers = [int(one) for one in re.findall(r"\d+", prompt)]
    if "i*i" in prompt:
        (n,) = numbers
        return str(n * (n - 1) * (2 * n - 1) // 6)
    if "**" in prompt:
        return str(sum(int(digit) for digit in str(numbers[0] ** numbers[1])))
    if len(numbers) == 2:
        n, k = numbers if "배수" in prompt else numbers[::-1]
        return str(sum(one for one in range(n) if one % k == 0))
    (n,) = numbers
    composite = {a * b for a in range(2, n) for b in range(2, n // a + 1)}
    return str(sum(set(range(2, n)) - composite))


@pytest.mark.parametrize("solve", [_products, _lookup, _reversing, _program])
def test_answers_are_right(solve):
    for one in _drawn(environments.FAMILIES[solve.__name__[1:]], count=160):
        assert task.answer(one.oracle) == solve(one.messages[-1]["content"]), one


@pytest.mark.parametrize("family", WITH_TOOLS, ids=lambda family: family.name)
def test_a_right_answer_that_no_tool_gave_earns_nothing(family):
    for one in _drawn(family):
        guess = [task.assistant(task.answer(one.oracle))]
        assert family.verify(one, guess, one.state).reward == 0.0
        # What is said of tools in messages is no proof.
        assert family.verify(one, one.oracle, one.state).reward == 0.0


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["function", "name", "arguments", "a", "results", "reads", "items"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
some_calls = st.lists(
    values
    | st.builds(
        lambda name, arguments: {"function": {"name": name, "arguments": arguments}},
        st.sampled_from(["mul", "add", "price", "remove", "move", "free", "checkout", "nothing"]),
        values
        | st.just('{"a": 1, "b": 2}')
        | st.dictionaries(
            st.sampled_from(["a", "b", "item", "count", "title", "start", "hours"]),
            st.integers() | st.sampled_from(["pen", "gym", ""]),
            max_size=3,
        ),
    ),
    max_size=20,
)


@given(some_calls)
def test_calls_that_are_wrong_are_told_so_and_change_nothing(tool_calls):
    for name in ("products", "shop", "calendar", "lookup"):
        one = environments.make(environments.FAMILIES[name], "en", 0, 1)
        before = json.dumps(one.state)
        messages, state = calls.run(name, one.state, tool_calls)
        assert json.dumps(one.state) == before
        assert len(messages) == len(tool_calls)
        assert all(isinstance(one["content"], str) for one in messages)
        if all(one["content"].startswith("error: ") for one in messages):
            assert state == one.state


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["role", "content", "reasoning_content", "tool_calls"]),
            values | st.sampled_from(["assistant", "tool"]),
        ),
        max_size=3,
    ),
    values,
)
def test_verifiers_take_any_reply_and_any_state(messages, state):
    for family in FAMILIES:
        one = environments.make(family, "ko", 0, 2)
        score = family.verify(one, messages, state)
        assert 0.0 <= score.reward <= 1.0
        json.dumps(dataclasses.asdict(score))


def _said(name, state, *made):
    messages, after = calls.run(name, state, list(made))
    return [one["content"] for one in messages], after


SHOP = {"items": {"pen": {"price": 3, "stock": 5}}, "cart": {}, "money": 10, "reads": []}


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ([tools.call("price", item="pen")], "3"),
        ([tools.call("price", item="pan")], "error: no item 'pan'"),
        ([tools.call("search", word="pe")], "pen 5"),
        ([tools.call("search", word="x")], "none"),
        ([tools.call("add", item="pen", count=6)], "error: only 5 pen in stock"),
        ([tools.call("add", item="pen", count=0)], "error: count must be 1 or more"),
        ([tools.call("add", item="pen", count=True)], "error: count must be of type integer"),
        ([tools.call("add", item="pen", count="2")], "error: count must be of type integer"),
        ([tools.call("add", item="pen", count=10**10)], "error: count is too large"),
        ([tools.call("add", item="pen")], "error: add takes item, count, not item"),
        ([tools.call("remove", item="pen", count=1)], "error: 0 pen in the cart"),
        ([tools.call("checkout")], "error: the cart is empty"),
        ([tools.call("add", item="pen", count=3), tools.call("checkout")], "left 1"),
        (
            [tools.call("add", item="pen", count=4), tools.call("checkout")],
            "error: total 12, money 10",
        ),
        ([tools.call("steal")], "error: no tool 'steal'; there is search, price, add, remove, "),
        ([{"function": {"name": "price", "arguments": '{"item": "pen"}'}}], "3"),
        ([{"function": {"name": "price", "arguments": "{"}}], "error: arguments are no JSON"),
        ([{"name": "price"}], "error: no tool ''"),
        ([tools.call("price", item="pen")] * 17, "error: more than 16 calls at once"),
    ],
)
def test_the_shop_says_what_was_wrong(made, said):
    assert _said("shop", SHOP, *made)[0][-1].startswith(said)


def test_paying_empties_the_cart_and_takes_stock_and_money():
    made = [tools.call("add", item="pen", count=2), tools.call("remove", item="pen", count=1)]
    _, state = _said("shop", SHOP, *made, tools.call("checkout"))
    assert state == {
        "items": {"pen": {"price": 3, "stock": 4}}, "cart": {}, "money": 7, "reads": []
    }  # fmt: skip


CALENDAR = {
    "events": {"gym": {"start": 9, "hours": 2}, "tea": {"start": 12, "hours": 1}},
    "reads": [],
}


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (tools.call("list"), "gym 9 to 11, tea 12 to 13"),
        (tools.call("add", title="run", start=11, hours=1), "11 to 12"),
        (tools.call("add", title="run", start=11, hours=2), "error: 11 to 13 is not free"),
        (tools.call("add", title="run", start=23, hours=2), "error: 23 to 25 is not free"),
        (tools.call("add", title="gym", start=15, hours=1), "error: there is 'gym' already"),
        (tools.call("move", title="gym", start=10), "10 to 12"),
        (tools.call("move", title="gym", start=11), "error: 11 to 13 is not free"),
        (tools.call("move", title="run", start=11), "error: no event 'run'"),
        (tools.call("delete", title="tea"), "1 left"),
        (tools.call("free", hours=9), "0, 13, 14, 15"),
        (tools.call("free", hours=12), "none"),
    ],
)
def test_the_calendar_says_what_was_wrong(made, said):
    assert _said("calendar", CALENDAR, made)[0] == [said]


@pytest.mark.parametrize(
    ("answer", "is_said"),
    [
        ("6", True),
        ("The total is 6.", True),
        ("6 or 7", False),
        ("16", False),
        ("six", False),
        ("6 " + "and so on " * 5, False),
    ],
)
def test_an_answer_says_one_number_in_few_words(answer, is_said):
    one = next(one for one in _drawn(environments.FAMILIES["shop"]) if one.goal["reads"] == [])
    goal = {**one.goal, "says": "6"}
    score = environments.FAMILIES["shop"].verify(
        dataclasses.replace(one, goal=goal), [task.assistant(answer)], goal["state"]
    )
    assert score.reward == float(is_said)


def test_a_trace_with_a_wrong_step_earns_the_answer_and_less_of_the_trace():
    family = environments.FAMILIES["chain_sum"]
    one = environments.make(family, "en", 0, 0)
    right = one.oracle[0]
    first = right["reasoning_content"].split(" ")[0]
    broken = right["reasoning_content"].replace(first, "+9=9", 1)
    score = family.verify(one, [{**right, "reasoning_content": broken}], None)
    assert score.reward == 1.0 and 0.0 <= score.parts["trace"] < 1.0
    assert family.verify(one, [{**right, "content": "9"}], None).reward == 0.0
