"""Calibration tuning: the model learns how sure to be of its own answers, and keeps answering.

    rounds of   answer tasks -> grade -> "Sure?" -> yes or no          beside data.paths as replay

data.paths name conversations, as for `sft`. `confidence.evaluator` says what is measured.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass

from kanana_jax import config, data, model
from kanana_jax.config import fields
from kanana_jax.config.ranges import Count, Share
from kanana_jax.data.whole_documents import WholeDocuments
from kanana_jax.jobs import confidence, playing, rounds, sft, training
from kanana_jax.rollouts import confidence as asking
from kanana_jax.rollouts import store
from kanana_jax.train import fit


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """The answers that a model is asked about."""

    rollouts: config.RolloutConfig
    steps_per_round: Count = 50
    share: Share = 0.5  # of the rows of a batch that are questions
    threshold: Share = 1.0  # the least reward of a right answer
    num_heldout: Count = 128  # tasks that measure it
    num_agreeing: Count = 4  # samples over which agreement is counted

    def __post_init__(self):
        fields.check(self, "calibration")


@dataclass(frozen=True, kw_only=True)
class Config(config.TrainingConfig):
    """The settings of every job that trains, and `calibration`."""

    calibration: CalibrationConfig


def _source(
    corpus: WholeDocuments,
    cfg: config.DataConfig,
    stages: Sequence[data.Stage],
    built: training.Built,
) -> fit.Source:
    own: CalibrationConfig = built.own
    player = playing.Playing(own.rollouts, cfg, corpus.tokenizer, built)

    def collect(weights: model.Weights, index: int) -> store.Round:
        played = [one for group in player.groups(weights, index) for one in group]
        found = asking.examples(
            player.form,
            corpus.tokenizer,
            played,
            asking.Question(),
            threshold=own.threshold,
            length=cfg.seq_len,
        )
        num_right = sum(one.about["says"] == asking.Question().yes for one in found)
        figures = {
            "asked_share": len(found) / len(played),
            "right_share": num_right / max(len(found), 1),
        }
        return store.Round(tuple(found), figures)

    plan = rounds.Plan(own.steps_per_round, own.share, keeps=True, collect=collect)
    return rounds.RoundsSource(corpus, cfg, stages, built.directory, plan)


def _evaluators(
    corpus: WholeDocuments,
    cfg: config.DataConfig,
    train: config.TrainConfig,
    built: training.Built,
) -> tuple[fit.Evaluator, ...]:
    own: CalibrationConfig = built.own
    player = playing.Playing(own.rollouts, cfg, corpus.tokenizer, built)
    return (
        *sft.JOB.evaluators(corpus, cfg, train, built),
        confidence.evaluator(
            player,
            num_heldout=own.num_heldout,
            num_agreeing=own.num_agreeing,
            threshold=own.threshold,
            every=train.num_steps,
        ),
        rounds.figures(built.directory, own.steps_per_round),
    )


JOB = sft.JOB._replace(
    source=_source, evaluators=_evaluators, own=operator.attrgetter("calibration")
)
run = training.of(JOB)
