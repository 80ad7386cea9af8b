import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanana_jax.data import chat, tokenizer
from kanana_jax.data.chat import Origin
from kanana_jax.generate import Answer
from kanana_jax.rollouts import episodes, sandbox
from kanana_jax.rollouts.environments import drawing, families

BYTES = tokenizer.byte_tokenizer()
LIMITS = episodes.Limits(max_tokens=60, max_turns=3, length=200)


@pytest.fixture(scope="module")
def pool():
    with sandbox.Pool(num_workers=1) as opened:
        yield opened


def _task(name="products@1", language="en"):
    (found,) = drawing.tasks_of([families.of(name)], [language], seed=0, count=1, heldout=False)
    return found


def _answer(text, is_ended=True):
    ids = [*BYTES.encode(text).tolist(), *([BYTES.eos_id] if is_ended else [])]
    return Answer(tuple(ids), text, is_ended, (-1.0,) * len(ids), (0,) * len(ids))


def _play(pool, task, turns, limits=LIMITS, form=chat.PLAIN):
    """What comes of a model that says `turns` one after the other; and what it was asked."""
    asked, left = [], iter(turns)

    def sample(requests):
        asked.extend(requests)
        return [left_one if isinstance(left_one := next(left), Answer) else _answer(left_one)
                for _ in requests]  # fmt: skip

    (played,) = episodes.Player(form, BYTES, pool, pool, limits).play([(task, 7)], sample, 1.0)
    return played, asked


def _oracle_turns(task, form=chat.PLAIN):
    said = [one for one in task.oracle if one["role"] == "assistant"]
    pieces = [form.render([*task.messages, one], task.tools) for one in said]
    return ["".join(p.text for p in some if p.origin is Origin.MODEL) for some in pieces]


@pytest.mark.parametrize("name", ["products@1", "products@3", "shop", "calendar", "small_talk"])
@pytest.mark.parametrize("form", [chat.PLAIN, chat.HERMES], ids=lambda one: one.name)
def test_what_the_oracle_does_earns_all(pool, name, form):
    task = _task(name)
    limits = episodes.Limits(max_tokens=2000, max_turns=12, length=20_000)
    played, _ = _play(pool, task, _oracle_turns(task, form), limits, form)
    assert (played.end, played.reward) == ("answered", 1.0)


def test_ids_are_those_that_the_same_conversation_has_in_training(pool):
    task = _task("products@3")
    played, asked = _play(pool, task, _oracle_turns(task))
    whole = chat.encode(chat.PLAIN, BYTES, [*task.messages, *played.messages], task.tools)
    assert list(played.ids) == whole.ids
    assert list(played.origins) == whole.origins
    for request in asked:
        assert played.ids[: len(request.prompt)] == tuple(request.prompt)


def test_what_tools_said_is_not_the_models(pool):
    task = _task()
    played, _ = _play(pool, task, _oracle_turns(task))
    drawn = [i for i, one in zip(played.ids, played.origins, strict=True) if one == Origin.MODEL]
    assert BYTES.decode(drawn) == "".join(_oracle_turns(task))
    heard = [i for i, one in zip(played.ids, played.origins, strict=True) if one == Origin.TOOL]
    assert BYTES.decode(heard) == task.goal["answer"]


def test_a_right_answer_without_the_tool_earns_nothing(pool):
    task = _task()
    played, _ = _play(pool, task, [task.goal["answer"]])
    assert (played.end, played.reward, played.num_calls) == ("answered", 0.0, 0)


def test_a_mistake_is_told_to_the_model(pool):
    played, asked = _play(pool, _task(), ['@mul {"a":1}', "sorry"])
    assert "error: mul takes a, b, not a" in BYTES.decode(asked[1].prompt)
    assert played.end == "answered"


@pytest.mark.parametrize(
    ("turns", "end"),
    [
        ([_answer("1" * 60, is_ended=False)], "length"),
        (['@mul {"a":1,'], "malformed"),
        (['@mul {"a":1,"b":2}'] * 3, "turns"),
    ],
)
def test_what_does_not_end_in_an_answer_earns_nothing(pool, turns, end):
    played, _ = _play(pool, _task(), turns)
    assert (played.end, played.reward) == (end, 0.0)
    assert played.is_valid is False


def test_an_episode_without_room_for_another_turn_ends():
    class NoPool:
        def run(self, calls):
            assert not calls
            return []

    task = _task()
    size = len(chat.encode(chat.PLAIN, BYTES, task.messages, task.tools, True).ids)
    limits = episodes.Limits(max_tokens=60, max_turns=3, length=size)
    played, asked = _play(NoPool(), task, [], limits)
    assert (played.end, asked) == ("length", [])


def test_turns_of_an_episode_have_seeds_of_their_own(pool):
    _, asked = _play(pool, _task("products@3"), ['@mul {"a":1,"b":2}'] * 3)
    assert len({one.sampling.seed for one in asked}) == 3


def test_a_grader_that_gives_nothing_leaves_no_reward():
    class Late:
        def run(self, calls):
            return [sandbox.Outcome(status="timeout", value=None, message="late") for _ in calls]

    played, _ = _play(Late(), _task("small_talk"), ["Hello."])
    assert (played.end, played.reward) == ("answered", None)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_whatever_a_model_writes_an_episode_ends(pool, texts, rng: random.Random):
    task = _task(rng.choice(["products@1", "shop", "small_talk", "constraints"]))
    played, _ = _play(pool, task, [*texts, "a", "b", "c"])
    assert played.end is not None and 0.0 <= (played.reward or 0.0) <= 1.0
    assert len(played.ids) == len(played.origins)
    json.dumps(list(played.messages))


def _sayings(task, form=chat.PLAIN):
    """A model that says what the oracle does, token by token, wherever a request begins."""
    turns = _oracle_turns(task, form)

    def answer(request):
        whole = _answer(turns[_num_turns(request.prompt)])
        begin = len(request.drawn)
        end = min(len(whole.ids), request.max_tokens)
        ids = whole.ids[begin:end]
        places = range(begin, end)
        return whole._replace(
            ids=ids,
            is_ended=end == len(whole.ids),
            logps=tuple(-0.5 - place for place in places),
            versions=tuple(0 for _ in places),
            routes=np.arange(2 * (len(request.prompt) + end - 1)).reshape(-1, 1, 2),
        )

    def _num_turns(prompt):
        return BYTES.decode(list(prompt)).count("tool: ")

    return lambda requests: [answer(one) for one in requests]


@pytest.mark.parametrize("budget", [1, 2, 5, 13])
def test_an_episode_that_was_cut_ends_as_one_that_was_not(pool, budget):
    task = _task("products@3")
    player = episodes.Player(chat.PLAIN, BYTES, pool, pool, LIMITS)
    (whole,) = player.play([(task, 7)], _sayings(task), 1.0)
    assert whole.reward == 1.0
    now, num_rounds = [player.start(task, 7)], 0
    while now[0].end is None:
        before = now[0].num_drawn
        now = player.advance(now, _sayings(task), 1.0, budget)
        num_rounds += 1
        assert 0 < now[0].num_drawn - before <= budget
        now = [episodes.from_json(json.loads(json.dumps(episodes.to_json(now[0]))))]
    assert num_rounds == -(-whole.num_drawn // budget)
    assert now[0] == whole
    np.testing.assert_array_equal(now[0].routes, whole.routes)


def test_every_id_has_a_number_of_how_it_was_drawn(pool):
    task = _task("products@3")
    player = episodes.Player(chat.PLAIN, BYTES, pool, pool, LIMITS)
    (played,) = player.play([(task, 7)], _sayings(task), 1.0)
    is_drawn = np.asarray(played.origins) == Origin.MODEL
    np.testing.assert_array_equal(np.asarray(played.logps) < 0, is_drawn)
    np.testing.assert_array_equal(np.asarray(played.versions) == 0, is_drawn)
    assert set(np.asarray(played.versions)[~is_drawn]) == {episodes.NO_VERSION}


def test_a_budget_is_no_limit_of_an_episode(pool):
    task = _task("products@3")
    player = episodes.Player(chat.PLAIN, BYTES, pool, pool, LIMITS)
    (cut,) = player.advance([player.start(task, 7)], _sayings(task), 1.0, 3)
    assert (cut.end, cut.reward, cut.num_open) == (None, None, 3)
