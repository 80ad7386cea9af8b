"""A reward model, trained on pairs of answers in JSON lines to give the chosen one more reward.

The reward of an answer is what the model's scalar head gives its last token, the one whose target
is the EOS that closes it. The head starts at zero, so all rewards do, unless train.init_from is a
model folder that has one. The router's bias stays as it is. `kanana_jax.data.preferences` says what
a line holds.
"""

from dataclasses import dataclass

from kanana_jax import config
from kanana_jax.config import fields
from kanana_jax.config.ranges import LossWeight
from kanana_jax.data import preferences
from kanana_jax.data.whole_documents import WholeDocuments
from kanana_jax.jobs import answer_pairs, curves, training
from kanana_jax.jobs.packed import PackedSource
from kanana_jax.objectives.reward import Reward
from kanana_jax.train import fit


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """The loss; `kanana_jax.objectives.reward` has its formula."""

    centering: LossWeight = 0.01  # of the squared sum of a pair's rewards

    def __post_init__(self):
        fields.check(self, "reward")


@dataclass(frozen=True, kw_only=True)
class Config(config.TrainingConfig):
    """The settings of every job that trains, and `reward`; data.paths name files of pairs."""

    reward: RewardConfig = RewardConfig()
    train: config.TrainConfig = answer_pairs.STILL

    def __post_init__(self):
        super().__post_init__()
        answer_pairs.expect_still(self.train, "reward training")
        if not self.model.scalar_head:
            raise config.ConfigError(
                "model.scalar_head must be true in reward training, got false; rewards are what it "
                "gives, and train.init_from may be a model without one"
            )


def _evaluators(
    corpus: WholeDocuments,
    cfg: config.DataConfig,
    train: config.TrainConfig,
    built: training.Built,
) -> tuple[fit.Evaluator, ...]:
    return (answer_pairs.evaluator("heldout_reward", corpus, cfg, train, built),)


JOB = training.Job(
    objective=lambda cfg: Reward(cfg.reward.centering),
    read=preferences.read,
    source=training.stored(PackedSource),
    evaluators=_evaluators,
    pictures=(
        answer_pairs.ORDER,
        answer_pairs.curve(
            "rewards",
            "Rewards of both answers",
            "What the scalar head gives the last token of an answer; centring keeps the middle of "
            "both at 0.",
            ("chosen_reward", "chosen"),
            ("rejected_reward", "rejected"),
        ),
        *curves.TRAINING,
    ),
    headline=answer_pairs.headline,
    columns=answer_pairs.COLUMNS,
)
run = training.of(JOB)
