import contextlib
import dataclasses
import json
import math

import pytest

from kanana_jax import config
from kanana_jax.jobs.rl_rounds import Rounds
from kanana_jax.rollouts.environments import drawing, families
from kanana_jax.rollouts.episodes import Episode
from kanana_jax.rollouts.groups import Group
from kanana_jax.rollouts.store import Collected, Round, Segment

ROLLOUTS = config.RolloutConfig(
    families=("chain_sum@3",), num_prompts=4, num_samples=2, max_tokens=10, max_turns=1
)
RL = config.RLConfig(rollouts=ROLLOUTS)
TASKS = drawing.tasks_of([families.of("chain_sum@3")], ["en"], seed=0, count=40, heldout=False)


class Player:
    """A try of prompt n draws as many tokens as `lengths` says; nothing is computed."""

    def __init__(self, lengths=lambda number: 1):
        self._lengths, self.started, self.versions = lengths, [], []

    @contextlib.contextmanager
    def opened(self, weights, version, with_routes):
        self.versions.append(version)
        yield self, None

    def group(self, player, number):
        self.started.append(number)
        tries = [
            Episode(
                task=TASKS[number],
                seed=2 * number + k,
                ids=(0,),
                origins=(1,),
                logps=(0.0,),
                versions=(-1,),
                state=number,
            )
            for k in range(ROLLOUTS.num_samples)
        ]
        return Group(number, tuple(tries))

    def advance(self, episodes, sample, temperature, budget):
        return [self._advanced(one, budget) for one in episodes]

    def _advanced(self, one, budget):
        if one.end:
            return one
        left = self._lengths(one.state) - one.num_drawn
        more = min(left, budget or left)
        return dataclasses.replace(
            one,
            ids=(*one.ids, *[1] * more),
            origins=(*one.origins, *[2] * more),
            logps=(*one.logps, *[-1.0] * more),
            versions=(*one.versions, *[0] * more),
            num_open=one.num_open + more,
            end="answered" if more == left else None,
            reward=1.0 if more == left else None,
            messages=({"role": "assistant", "content": "1"},) if more == left else (),
        )


class Segments:
    reads_routes = False

    def make(self, weights, version, tries, temperature):
        made = [
            Collected(segments=(Segment((one.group, one.episode.seed), (1, 2)),)) for one in tries
        ]
        return made, {}


def _rounds(cfg=RL, player=None, rewards=None, num_rounds=8):
    by_seed = rewards or (lambda played: [float(one.seed % 2) for one in played])
    return Rounds(cfg, player or Player(), by_seed, Segments(), num_rounds)


def _groups(found):
    return sorted({one.segments[0].ids[0] for one in found.examples})


def _told(found):
    """The round as it is read from disk."""
    return Round(found.examples, found.figures, json.loads(json.dumps(found.rest)))


def test_rounds_work_on_new_prompts_in_their_order():
    player = Player()
    rounds, before = _rounds(player=player), None
    for index in range(3):
        before = _told(rounds.collect("w", index, before))
        assert _groups(before) == list(range(4 * index, 4 * index + 4))
    assert player.started == list(range(12))
    assert player.versions == [0, 1, 2]


def test_tries_that_are_cut_go_on_in_later_rounds_and_none_is_lost():
    cfg = dataclasses.replace(RL, tokens_per_round=3)
    player = Player(lengths=lambda number: 1 + number % 8)
    rounds, before, trained = _rounds(cfg, player), None, []
    for index in range(8):
        before = _told(rounds.collect("w", index, before))
        trained += _groups(before)
        assert len(_groups(before)) + before.figures["waiting_groups"] == 4
    assert len(trained) == len(set(trained))
    waiting = [one["number"] for one in before.rest["waiting"]]
    assert sorted(trained + waiting) == list(range(before.rest["next_prompt"]))
    assert player.started == sorted(set(player.started))
    assert {7, 6, 5} & set(trained)  # those that took three rounds


def _equal_but(different):
    def rewards(played):
        return [float(one.seed % 2 and one.state in different) for one in played]

    return rewards


def test_groups_of_equal_worth_are_replaced():
    cfg = dataclasses.replace(RL, drop_equal=True, max_draws=3)
    rounds = _rounds(cfg, rewards=_equal_but({1, 3, 5, 6, 7}))
    found = rounds.collect("w", 0, None)
    assert _groups(found) == [1, 3, 5, 6]
    assert found.rest["next_prompt"] == 7
    assert found.figures["equal_share"] == pytest.approx(3 / 7)


def test_no_more_prompts_are_drawn_than_asked_for():
    cfg = dataclasses.replace(RL, drop_equal=True, max_draws=2)
    found = _rounds(cfg, rewards=_equal_but({1, 9})).collect("w", 0, None)
    assert _groups(found) == [1]
    assert found.rest["next_prompt"] == 7


def test_equal_groups_are_trained_on_where_nothing_is_said():
    found = _rounds(rewards=_equal_but({1})).collect("w", 0, None)
    assert _groups(found) == [0, 1, 2, 3]
    assert found.figures["equal_share"] == 0.75


def test_tries_that_were_not_judged_are_left_out_and_lone_ones_too():
    def rewards(played):
        return [math.nan if one.seed in (0, 2, 3) else 1.0 for one in played]

    found = _rounds(rewards=rewards).collect("w", 0, None)
    assert _groups(found) == [2, 3]
    assert found.figures["unjudged_share"] == 0.5


def test_long_tries_are_worth_less():
    cfg = dataclasses.replace(RL, overlong_buffer=4)
    player = Player(lengths=lambda number: 5 + number)
    values = {}

    class Seen(Segments):
        def make(self, weights, version, tries, temperature):
            values.update({one.episode.num_drawn: one.value for one in tries})
            return super().make(weights, version, tries, temperature)

    made = Rounds(cfg, player, lambda played: [1.0 for _ in played], Seen(), 8)
    made.collect("w", 0, None)
    assert values == {5: 1.0, 6: 1.0, 7: 0.75, 8: 0.5}


def test_temperature_goes_from_the_first_to_the_last_in_a_line():
    rollouts = dataclasses.replace(ROLLOUTS, temperature=1.0)
    cfg = dataclasses.replace(RL, rollouts=rollouts, temperature_end=0.5)
    rounds, before, seen = _rounds(cfg, num_rounds=3), None, []
    for index in range(3):
        before = rounds.collect("w", index, before)
        seen.append(before.figures["temperature"])
    assert seen == [1.0, 0.75, 0.5]
