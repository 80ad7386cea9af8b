"""Tries of one prompt that are compared with each other, and what they are worth.

A group is complete when all of its tries have ended. A reward gives a number to an episode that
has ended: the verifier's, or one that pays for something else than right answers, to learn
what such rewards do.
"""

import hashlib
import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

from kanana_jax.config import ConfigError
from kanana_jax.rollouts import episodes
from kanana_jax.rollouts.episodes import Episode

Reward = Callable[[Episode], float]


class Group(NamedTuple):
    number: int  # of its prompt, in the order in which the prompts of a run are drawn
    episodes: tuple[Episode, ...]

    @property
    def is_complete(self) -> bool:
        return all(one.end for one in self.episodes)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        return cls(fields["number"], tuple(map(episodes.from_json, fields["episodes"])))

    def to_json(self) -> dict[str, Any]:
        return {"number": self.number, "episodes": list(map(episodes.to_json, self.episodes))}


def truth(one: Episode) -> float:
    """What the verifier of the task gives; NaN where it did not judge."""
    return math.nan if one.reward is None else one.reward


def form(one: Episode) -> float:
    """1 for an answer after reasoning, whether they are right or not."""
    last = one.messages[-1] if one.is_valid else {}
    return float(bool(last.get("reasoning_content", "").strip() and one.answer.strip()))


def chance(one: Episode) -> float:
    """0 or 1, by a coin that depends on the try and not on the answer."""
    digest = hashlib.blake2b(repr((one.task.content, one.seed)).encode(), digest_size=8).digest()
    return float(digest[0] & 1)


def inverted(one: Episode) -> float:
    """1 where the verifier gives 0, among answers that can be read."""
    return (1.0 - truth(one)) * one.is_valid


REWARDS: dict[str, Reward] = {
    "truth": truth,
    "format": form,
    "random": chance,
    "inverted": inverted,
}


def reward_of(name: str) -> Reward:
    """A reward by its name; one of yours by "package.module:NAME"."""
    if name in REWARDS:
        return REWARDS[name]
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ConfigError(
            f"expected a reward among {', '.join(REWARDS)}, or package.module:NAME, got {name!r}"
        )
    return getattr(importlib.import_module(module), attribute)
