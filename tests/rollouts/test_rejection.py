import dataclasses

import pytest

from kanana_jax.rollouts import judging, rejection, store
from kanana_jax.rollouts.environments import drawing, families
from kanana_jax.rollouts.episodes import NO_VERSION, Episode

(TASK,) = drawing.tasks_of([families.of("products@1")], ["en"], seed=0, count=1, heldout=False)


def _try(seed, reward: float | None = 1.0, text="1", **further):
    one = Episode(
        task=TASK,
        seed=seed,
        ids=(*range(10), *text.encode()),
        origins=(*[0] * 10, *[2] * len(text)),
        logps=(*[0.0] * 10, *[-0.5] * len(text)),
        versions=(*[NO_VERSION] * 10, *[0] * len(text)),
        messages=({"role": "assistant", "content": text},),
        end="answered",
        num_calls=1,
        reward=reward,
    )
    return dataclasses.replace(one, **further)


def _keep(*groups, max_kept=4):
    return rejection.keep(groups, threshold=1.0, max_kept=max_kept)


def test_only_tries_that_reached_the_goal_are_kept():
    group = [_try(0, 1.0, "a"), _try(1, 0.9, "b"), _try(2, 1.0, "c", end="length"), _try(3, None)]
    kept = _keep(group)
    assert [one.seed for one in kept.episodes] == [0]
    # The try without a reward is not a wrong one; it is counted apart.
    assert kept.figures["success"] == pytest.approx(1 / 3)
    assert kept.figures["failed_share"] == pytest.approx(1 / 4)


def test_equal_tries_are_kept_once():
    assert len(_keep([_try(0), _try(1), _try(2, 0.0)]).episodes) == 1


def test_hard_tasks_give_more_examples_than_easy_ones():
    easy = [_try(k, 1.0, f"e{k}") for k in range(8)]
    hard = [_try(k, float(k < 3), f"h{k}") for k in range(8)]
    kept = _keep(easy, hard)
    texts = [one.answer[0] for one in kept.episodes]
    assert (texts.count("e"), texts.count("h")) == (1, 3)
    assert kept.figures["always_solved_share"] == 0.5


def test_shorter_tries_are_preferred():
    (only,) = _keep([_try(0, 1.0, "long answer"), _try(1, 1.0, "short")], max_kept=1).episodes
    assert only.answer == "short"


def test_tool_calls_are_counted():
    assert _keep([_try(0), _try(1, num_calls=0)]).figures["tool_call_rate"] == 0.5


def test_the_best_goes_against_the_worst():
    group = [_try(0, text="a"), _try(1, 0.0, "b"), _try(2, text="cc"), _try(3, None, "d")]
    found = judging.pairs([group], [[0.5, 0.1, 0.9, float("nan")]], min_gap=0.0, length=64)
    (pair,) = found.examples
    assert [one.ids for one in pair.segments] == [group[2].ids, group[1].ids]
    wanted = {"score": 0.5, "reward": 2 / 3, "paired_share": 1.0, "longer_by": 1.0}
    assert found.figures == pytest.approx(wanted)


@pytest.mark.parametrize(("length", "num_pairs"), [(41, 1), (40, 0)])
def test_two_answers_that_fill_more_than_a_row_make_no_pair(length, num_pairs):
    group = [_try(0, text="a"), _try(1, text="b" * 22)]  # 11 and 32 ids, 10 and 31 positions
    found = judging.pairs([group], [[1.0, 0.0]], min_gap=0.0, length=length)
    assert len(found.examples) == num_pairs == found.figures["paired_share"]


@pytest.mark.parametrize("scores", [[0.5, 0.5], [0.5, 0.6], [0.5, float("nan")]])
def test_what_cannot_be_told_apart_makes_no_pair(scores):
    found = judging.pairs([[_try(0), _try(1, text="b")]], [scores], min_gap=0.2, length=64)
    assert found.examples == () and found.figures["paired_share"] == 0.0


def test_a_round_is_read_as_it_was_written(tmp_path):
    found = store.Round((rejection.collected(_try(0)),), {"success": 0.25})
    assert store.read(tmp_path, 3) is None
    store.write(tmp_path, 3, found)
    assert store.read(tmp_path, 3) == found


def test_a_round_that_was_cut_off_while_it_was_written_is_not_there(tmp_path):
    store.write(tmp_path, 0, store.Round((rejection.collected(_try(0)),), {}))
    (tmp_path / store.FOLDER / "0000.json").unlink()
    assert store.read(tmp_path, 0) is None
