import json
import math

import numpy as np
import pytest

from kanana_jax.config import ConfigError
from kanana_jax.rollouts import episodes, groups
from kanana_jax.rollouts.environments import drawing, families
from kanana_jax.rollouts.episodes import Episode
from kanana_jax.rollouts.groups import Group

(TASK,) = drawing.tasks_of([families.of("digit_sum@3")], ["en"], seed=0, count=1, heldout=False)


def _try(seed=0, *, said=None, reward=None, end="answered", **fields):
    message = {"role": "assistant", "content": "4"} | (said or {})
    return Episode(
        task=TASK,
        seed=seed,
        ids=(1, 2, 3),
        origins=(1, 2, 2),
        logps=(0.0, -0.25, -1e-7),
        versions=(-1, 0, 3),
        messages=(message,) if end == "answered" else (),
        end=end,
        reward=reward,
        **fields,
    )


REASONED = {"reasoning_content": "+1=1"}


@pytest.mark.parametrize(
    ("name", "one", "worth"),
    [
        ("truth", _try(reward=1.0), 1.0),
        ("truth", _try(reward=0.0, end="length"), 0.0),
        ("format", _try(said=REASONED, reward=0.0), 1.0),
        ("format", _try(reward=1.0), 0.0),
        ("format", _try(said={**REASONED, "content": " "}), 0.0),
        ("format", _try(end="malformed", reward=0.0), 0.0),
        ("inverted", _try(reward=0.0), 1.0),
        ("inverted", _try(reward=1.0), 0.0),
        ("inverted", _try(end="length", reward=0.0), 0.0),
    ],
)
def test_rewards_pay_for_what_they_are_named_for(name, one, worth):
    assert groups.reward_of(name)(one) == worth


def test_a_try_that_was_not_judged_is_worth_no_number():
    assert math.isnan(groups.reward_of("truth")(_try()))


def test_a_random_reward_is_a_coin_that_always_falls_alike():
    coin = groups.reward_of("random")
    found = [coin(_try(seed)) for seed in range(400)]
    assert found == [coin(_try(seed, reward=1.0)) for seed in range(400)]
    assert 160 < sum(found) < 240 and set(found) == {0.0, 1.0}


def half(one):
    return 0.5


def test_a_reward_of_ones_own_is_named_by_its_module():
    assert groups.reward_of(f"{__name__}:half")(_try()) == 0.5
    with pytest.raises(ConfigError, match="a reward among truth, format"):
        groups.reward_of("halves")


def test_groups_go_through_json_bit_for_bit():
    routes = np.arange(12).reshape(2, 3, 2)
    group = Group(7, (_try(said=REASONED, reward=1.0, routes=routes), _try(1, end=None)))
    again = Group.from_json(json.loads(json.dumps(group.to_json())))
    assert again == group and not again.is_complete
    np.testing.assert_array_equal(again.episodes[0].routes, routes)
    assert again.episodes[1].routes is None
    assert Group(7, group.episodes[:1]).is_complete
    assert episodes.from_json(json.loads(json.dumps(episodes.to_json(_try())))) == _try()
