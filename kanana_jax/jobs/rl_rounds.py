"""Rounds of tries for reinforcement learning: what is tried, what it is worth, what is trained on.

    round:  groups that are open + new ones -> play -> reward -> advantage -> segments

A round works on `num_prompts` groups. Tries that have used up `tokens_per_round` stay open, and the
next round goes on with them under its newer weights. A group is trained on when all of its tries
have ended. One whose tries are all worth the same is dropped where `drop_equal` says so, and other
prompts take its place, `max_draws` times at most.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from kanana_jax import config, model
from kanana_jax.jobs import playing
from kanana_jax.jobs.rl_segments import Judged, Segments
from kanana_jax.objectives import advantages
from kanana_jax.rollouts import groups as groups_lib
from kanana_jax.rollouts import store
from kanana_jax.rollouts.episodes import Episode
from kanana_jax.rollouts.groups import Group

Rewards = Callable[[Sequence[Episode]], list[float]]  # NaN where a try was not judged


class Worked(NamedTuple):
    """What became of the groups of a round, and which prompt is next."""

    complete: list[Group]  # to train on
    equal: list[Group]  # dropped
    waiting: list[Group]
    next_prompt: int


class Rounds:
    """Collects rounds. The same weights and rest of the round before give the same round."""

    def __init__(
        self,
        cfg: config.RLConfig,
        player: playing.Playing,
        rewards: Rewards,
        segments: Segments,
        num_rounds: int,
    ):
        self._cfg, self._player, self._rewards = cfg, player, rewards
        self._segments, self._num_rounds = segments, num_rounds

    def collect(
        self, weights: model.Weights, index: int, before: store.Round | None
    ) -> store.Round:
        """Round `index`, from 0; `before` is the one before it."""
        temperature = self._temperature(index)
        worked = self._work(weights, index, before, temperature)
        judged = [one for group in worked.complete for one in self._judged(group)]
        made, of_segments = self._segments.make(weights, index, judged, temperature)
        figures = {"temperature": temperature, **self._figures(worked, judged), **of_segments}
        return store.Round(
            tuple(made),
            {name: value for name, value in figures.items() if not math.isnan(value)},
            {
                "next_prompt": worked.next_prompt,
                "waiting": [group.to_json() for group in worked.waiting],
            },
        )

    def _work(
        self,
        weights: model.Weights,
        index: int,
        before: store.Round | None,
        temperature: float,
    ) -> Worked:
        rest = before.rest if before else {"next_prompt": 0, "waiting": []}
        pool = [Group.from_json(one) for one in rest["waiting"]]
        worked = Worked([], [], [], rest["next_prompt"])
        with self._player.opened(weights, index, self._segments.reads_routes) as (player, sample):
            for _ in range(self._cfg.max_draws):
                missing = (
                    self._cfg.rollouts.num_prompts - len(worked.complete) - len(worked.waiting)
                )
                fresh = range(worked.next_prompt, worked.next_prompt + missing - len(pool))
                pool += [self._player.group(player, number) for number in fresh]
                if not pool:
                    break
                played = player.advance(
                    [one for group in pool for one in group.episodes],
                    sample,
                    temperature,
                    self._cfg.tokens_per_round,
                )
                worked = self._sorted(worked, _regrouped(pool, played), len(fresh))
                pool = []
        return worked

    def _sorted(self, worked: Worked, played: Sequence[Group], num_fresh: int) -> Worked:
        complete, equal, waiting = (list(x) for x in worked[:3])
        for group in played:
            if not group.is_complete:
                waiting.append(group)
            elif self._cfg.drop_equal and _is_equal(self._judged(group)):
                equal.append(group)
            else:
                complete.append(group)
        return Worked(complete, equal, waiting, worked.next_prompt + num_fresh)

    def _judged(self, group: Group) -> list[Judged]:
        """The tries of a group with their worth; none where fewer than two of them were judged."""
        rollouts, buffer = self._cfg.rollouts, self._cfg.overlong_buffer
        values = np.asarray(self._rewards(group.episodes), np.float64)
        if buffer:
            lengths = np.array([one.num_drawn for one in group.episodes])
            longest = rollouts.max_tokens * rollouts.max_turns
            values = values + advantages.overlong_penalty(lengths, longest, buffer)
        found = [
            Judged(one, group.number, float(value))
            for one, value in zip(group.episodes, values, strict=True)
            if not math.isnan(value)
        ]
        return found if len(found) > 1 else []

    def _temperature(self, index: int) -> float:
        """The temperature of round `index`: linear from the first to the last."""
        first = self._cfg.rollouts.temperature
        last = self._cfg.temperature_end or first
        return first + (last - first) * index / max(self._num_rounds - 1, 1)

    def _figures(self, worked: Worked, judged: Sequence[Judged]) -> dict[str, float]:
        groups = (*worked.complete, *worked.equal)
        tries = [one for group in groups for one in group.episodes]
        num_tries = sum(len(group.episodes) for group in worked.complete)
        num_equal = sum(_is_equal(self._judged(group)) for group in groups)
        return {
            "reward": _mean([one.value for one in judged]),
            "success": _mean([one.reward or 0.0 for one in tries]),
            "reasoned": _mean([groups_lib.form(one) for one in tries]),
            "valid_turns": _mean([float(one.is_valid) for one in tries]),
            "over_length": _mean([float(one.is_cut) for one in tries]),
            "drawn_tokens": _mean([one.num_drawn for one in tries]),
            "equal_share": num_equal / max(len(groups), 1),
            "trained_groups": float(len(worked.complete)),
            "waiting_groups": float(len(worked.waiting)),
            "unjudged_share": 1.0 - len(judged) / max(num_tries, 1),
        }


def _is_equal(judged: Sequence[Judged]) -> bool:
    """Whether no try is better than another."""
    values = np.array([one.value for one in judged])
    groups = np.array([one.group for one in judged])
    return bool(advantages.has_equal_rewards(values, groups).all())


def _regrouped(groups: Sequence[Group], played: Sequence[Episode]) -> list[Group]:
    left = iter(played)
    return [Group(one.number, tuple(next(left) for _ in one.episodes)) for one in groups]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan
