"""Fine-tuning on conversations and on what the model itself got right, in rounds.

    round:  draw tasks -> sample -> run tools -> keep what reached the goal -> train -> next round

data.paths name conversations, as for `sft`, and a share of the rows of every batch comes from
kept tries. A round begins every `rejection.steps_per_round` steps.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass

from kanana_jax import config, data, model
from kanana_jax.config import fields
from kanana_jax.config.ranges import Count, Share
from kanana_jax.data.whole_documents import WholeDocuments
from kanana_jax.jobs import playing, rounds, sft, training
from kanana_jax.rollouts import rejection, store
from kanana_jax.train import fit


@dataclass(frozen=True, kw_only=True)
class RejectionConfig:
    """Tries, and which of a round's are kept."""

    rollouts: config.RolloutConfig
    steps_per_round: Count = 50
    share: Share = 0.5  # of a batch's rows, from the kept tries of all rounds so far
    threshold: Share = 1.0  # the least reward of a try that has reached the goal
    max_kept: Count = 4  # of one task
    num_heldout: Count = 64  # tasks that measure it

    def __post_init__(self):
        fields.check(self, "rejection")


@dataclass(frozen=True, kw_only=True)
class Config(config.TrainingConfig):
    """The settings of every job that trains, and `rejection`."""

    rejection: RejectionConfig


def _source(
    corpus: WholeDocuments,
    cfg: config.DataConfig,
    stages: Sequence[data.Stage],
    built: training.Built,
) -> fit.Source:
    own: RejectionConfig = built.own
    player = playing.Playing(own.rollouts, cfg, corpus.tokenizer, built)

    def collect(weights: model.Weights, index: int) -> store.Round:
        groups = player.groups(weights, index)
        kept = rejection.keep(groups, threshold=own.threshold, max_kept=own.max_kept)
        return store.Round(tuple(map(rejection.collected, kept.episodes)), kept.figures)

    plan = rounds.Plan(own.steps_per_round, own.share, keeps=True, collect=collect)
    return rounds.RoundsSource(corpus, cfg, stages, built.directory, plan)


def evaluators(
    corpus: WholeDocuments,
    cfg: config.DataConfig,
    train: config.TrainConfig,
    built: training.Built,
) -> tuple[fit.Evaluator, ...]:
    """Those of `sft`, and the figures of rounds."""
    own: RejectionConfig = built.own
    return (
        *sft.JOB.evaluators(corpus, cfg, train, built),
        rounds.figures(built.directory, own.steps_per_round),
    )


def _with_success(
    corpus: WholeDocuments,
    cfg: config.DataConfig,
    train: config.TrainConfig,
    built: training.Built,
) -> tuple[fit.Evaluator, ...]:
    own: RejectionConfig = built.own
    player = playing.Playing(own.rollouts, cfg, corpus.tokenizer, built)
    return (
        *evaluators(corpus, cfg, train, built),
        playing.success(player, player.heldout_tasks(own.num_heldout), own.steps_per_round),
    )


JOB = sft.JOB._replace(
    check=lambda corpus, cfg: playing.expect_sound(cfg.rejection.rollouts),
    source=_source,
    evaluators=_with_success,
    own=operator.attrgetter("rejection"),
)
run = training.of(JOB)
