"""Who says which of several answers is better: a number for each, larger is better.

rubric         the reward of the task's own grader
reward_model   the scalar of a model that `reward` has trained
endpoint       the number that a model behind an OpenAI-style endpoint replies with
"""

import json
import math
import re
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from kanana_jax import config, parallel
from kanana_jax.config import fields
from kanana_jax.config.paths import Location
from kanana_jax.config.ranges import Range
from kanana_jax.jobs import playing, reward_model
from kanana_jax.jobs.likelihood import Score
from kanana_jax.rollouts.episodes import Episode
from kanana_jax.rollouts.store import Segment

Judge = Callable[[Sequence[Episode]], list[float]]  # NaN where it says nothing

_TASK = (
    "Rate the answer to the request from 0 to 10, where 10 is best. Reply with the number alone."
)
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Who judges. `reward_model` is a model folder; {seed} in it is the seed of the run."""

    kind: Literal["rubric", "reward_model", "endpoint"] = "rubric"
    reward_model: Annotated[str, Location(may_be_empty=True)] = ""
    url: str = ""  # of the endpoint, up to and including /v1
    model: str = ""  # its name there
    instruction: str = _TASK
    timeout_s: Annotated[float, Range(0.1, 3600.0, "seconds of one reply")] = 60.0

    def __post_init__(self):
        fields.check(self, "judge")
        needed = {"reward_model": ("reward_model",), "endpoint": ("url", "model")}
        for name in needed.get(self.kind, ()):
            if not getattr(self, name):
                raise config.ConfigError(
                    f"judge.{name} must be given where judge.kind is {self.kind}, got nothing"
                )


def of(cfg: JudgeConfig, player: playing.Playing, built: Any, seed: int) -> Judge:
    """The judge of the settings. Raises what reading a reward model raises."""
    if cfg.kind == "rubric":
        return rubric
    if cfg.kind == "reward_model":
        folder = Path(cfg.reward_model.replace("{seed}", str(seed)))
        return _by_reward_model(reward_model.load(folder, built), player)
    return lambda played: _told_to_all(lambda: [_ask(cfg, one) for one in played])


def rubric(played: Sequence[Episode]) -> list[float]:
    return [math.nan if one.reward is None else one.reward for one in played]


def _by_reward_model(score: Score, player: playing.Playing) -> Judge:
    def judge(played: Sequence[Episode]) -> list[float]:
        """The scalar at the token that ends an answer; an answer without one is not judged."""
        kept = [k for k, one in enumerate(played) if one.end == "answered"]
        segments = [Segment(played[k].ids, played[k].origins) for k in kept]
        found = [math.nan] * len(played)
        for k, scalar_S in zip(kept, player.scored(score, segments), strict=True):
            found[k] = float(scalar_S[-1])
        return found

    return judge


def _told_to_all(fn: Callable[[], list[float]]) -> list[float]:
    """What process 0 finds; NaN travels as None."""
    mine = None
    if parallel.is_first():
        mine = [None if math.isnan(x) else x for x in fn()]
    first = parallel.everyones(mine)[0]
    return [math.nan if x is None else x for x in first]


def _ask(cfg: JudgeConfig, one: Episode) -> float:
    shown = json.dumps(
        {"request": list(one.task.messages), "answer": list(one.messages)}, ensure_ascii=False
    )
    body = {
        "model": cfg.model,
        "messages": [{"role": "user", "content": f"{cfg.instruction}\n\n{shown}"}],
        "temperature": 0,
        "max_tokens": 16,
    }
    request = urllib.request.Request(
        f"{cfg.url.rstrip('/')}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=cfg.timeout_s) as reply:
            said = json.load(reply)["choices"][0]["message"]["content"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise config.ConfigError(
            f"judge.url: expected a chat completion from {cfg.url}, got {error}; start the server "
            "or name another"
        ) from error
    number = _NUMBER.search(said or "")
    return float(number[0]) if number else math.nan
