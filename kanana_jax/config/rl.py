"""Reinforcement learning: what tries are worth, which of them are trained on, and by which loss."""

from dataclasses import dataclass
from typing import Annotated, Literal

from kanana_jax.config import fields
from kanana_jax.config.ranges import Count, CountOrZero, Factor, LossWeight, Range, Share
from kanana_jax.config.rollouts import RolloutConfig

Loss = Literal[
    "reinforce", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "ppo", "squared", "squared_token"
]


@dataclass(frozen=True, kw_only=True)
class RLConfig:
    """Every round works on rollouts.num_prompts groups of rollouts.num_samples tries each."""

    rollouts: RolloutConfig
    reward: str = "truth"  # truth, format, random, inverted, judge, or package.module:NAME
    overlong_buffer: CountOrZero = 0  # tokens before a try's limit in which its reward falls by 1
    loss: Loss = "grpo"  # see kanana_jax.objectives.presets
    tau: Factor = 0.05  # of the squared losses
    correction: Literal["none", "tis", "icepop", "sequence_mask"] = "none"
    kl: Literal["none", "reward_k1", "loss_k2", "loss_rk3", "loss_k3"] = "none"
    kl_weight: LossWeight = 0.0
    # Which experts the trainer's tokens go to: those it chooses, those it chose before the first
    # update of the round (R2), or those of the sampler (R3, arXiv:2510.11370).
    routing: Literal["live", "trainer", "sampler"] = "sampler"
    measures_routing: bool = True  # how sampler and trainer differ; takes a forward pass
    epochs: Count = 1  # passes over the tries of a round
    stored_share: Share = 0.0  # of the rows of a batch: those from data.paths
    stored_weight: LossWeight = 0.1  # of their loss (the PTX term)
    drop_equal: bool = False  # drop groups whose tries are all worth the same
    max_draws: Count = 1  # of prompts in a round, until none has to be replaced
    tokens_per_round: CountOrZero = 0  # of a try, which then goes on in the next round; 0: all
    temperature_end: Annotated[float, Range(0.0, 1e6, "0: as at the start")] = 0.0
    max_mismatch: Factor = 0.01  # k3 of sampler and trainer from which an event warns

    def __post_init__(self):
        fields.check(self, "rl")
        if self.stored_share and not self.stored_weight:
            raise fields.ConfigError(
                f"rl.stored_weight must be over 0 where rl.stored_share is {self.stored_share:g}, "
                "or the rows would be read in vain; got 0; set rl.stored_share=0 to have none"
            )
