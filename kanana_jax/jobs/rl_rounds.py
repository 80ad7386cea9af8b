"""Rounds of tries for reinforcement learning: what is tried, what it is worth, what is trained on.

    round:  groups that are open + new ones -> play -> reward -> advantage -> segments

A round works on `num_prompts` groups. Tries that have used up `tokens_per_round` stay open, and the
next round goes on with them under its newer weights. A group is trained on when all of its tries
have ended. One whose tries are all worth the same is dropped where `drop_equal` says so, and other
prompts take its place, `max_draws` times at most.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from kanana_jax import config, model
from kanana_jax.jobs import playing, sampled_columns
from kanana_jax.objectives import advantages
from kanana_jax.rollouts import groups as groups_lib
from kanana_jax.rollouts import store
from kanana_jax.rollouts.episodes import Episode
from kanana_jax.rollouts.groups import Group
from kanana_jax.rollouts.store import Collected


class Worked(NamedTuple):
    """What became of the groups of a round, and which prompt is next."""

    complete: list[Group]  # to train on
    equal: list[Group]  # dropped
    waiting: list[Group]
    next_prompt: int
