"""Rollouts: which tasks a model tries during its training, and how it answers them."""

from dataclasses import dataclass
from typing import Literal

from kanana_jax.config import fields
from kanana_jax.config.ranges import Count, Factor, Seed


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """Tasks, and the answers drawn for each of them."""

    families: tuple[str, ...]  # by name, with the levels to draw behind an @: products@1,2
    # Which of them may pay too much for replies that solve nothing (kanana_jax.rollouts.audit).
    allow: tuple[str, ...] = ()
    languages: tuple[Literal["en", "ko"], ...] = ("en", "ko")
    num_prompts: Count = 64  # a round
    num_samples: Count = 4  # for each prompt
    temperature: Factor = 1.0
    max_tokens: Count = 64  # of one turn of the model
    max_turns: Count = 4  # of the model, for one task
    num_rows: Count = 32  # answers drawn at a time
    compute_dtype: Literal["", "bfloat16", "float32"] = ""  # of the sampler; empty: training's
    seed: Seed = 0

    def __post_init__(self):
        fields.check(self, "rollouts")
        for name in ("families", "languages"):
            if not getattr(self, name):
                raise fields.ConfigError(f"rollouts.{name} must name one or more, got none")
