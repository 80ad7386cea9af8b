"""On-policy distillation: the teacher is asked about what the student itself writes.

    round:  prompts -> the student's answers -> divergence from the teacher at each drawn token

A student that has read only a teacher's text meets its own mistakes for the first time when it
writes (GKD, arXiv:2306.13649). `distill.divergence=reverse_kl` is usual here. data.paths name
conversations, as for `sft`; 1 - `on_policy.share` of the rows come from them and are taught too. No
gradient flows through the draws, and no reward is used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kanana_jax import config, data, model
from kanana_jax.config import fields
from kanana_jax.config.ranges import Count, Share
from kanana_jax.data.whole_documents import WholeDocuments
from kanana_jax.jobs import distillation, playing, rounds, sft, teachers, training
from kanana_jax.jobs.job import measuring
from kanana_jax.rollouts import rejection, store
from kanana_jax.train import fit


@dataclass(frozen=True, kw_only=True)
class OnPolicyConfig:
    """What the student answers. Every try is trained on, whatever it earned."""

    rollouts: config.RolloutConfig
    steps_per_round: Count = 10
    share: Share = 1.0  # of a batch's rows, from the newest round

    def __post_init__(self):
        fields.check(self, "on_policy")


@dataclass(frozen=True, kw_only=True)
class Config(distillation.Config):
    """The settings of `distillation`, and `on_policy`."""

    on_policy: OnPolicyConfig

    def __post_init__(self):
        super().__post_init__()
        if self.distill.outputs != "live" or not self.distill.weight:
            raise config.ConfigError(
                "on-policy distillation needs distill.outputs=live and a distill.weight over 0, "
                "for nobody knows before what the student writes; got "
                f"{self.distill.outputs} and {self.distill.weight:g}"
            )


class _Own(NamedTuple):
    known: teachers.Known
    on_policy: OnPolicyConfig


def _source(
    corpus: WholeDocuments,
    cfg: config.DataConfig,
    stages: Sequence[data.Stage],
    built: training.Built,
) -> fit.Source:
    own: OnPolicyConfig = built.own.on_policy
    player = playing.Playing(own.rollouts, cfg, corpus.tokenizer, built)

    def collect(weights: model.Weights, index: int) -> store.Round:
        tries = [one for group in player.groups(weights, index) for one in group]
        answered = sum(one.end == "answered" for one in tries) / len(tries)
        return store.Round(tuple(map(rejection.collected, tries)), {"answered": answered})

    plan = rounds.Plan(own.steps_per_round, own.share, keeps=False, collect=collect)
    return rounds.RoundsSource(corpus, cfg, stages, built.directory, plan)


def _figures(
    corpus: Any, cfg: config.DataConfig, train: config.TrainConfig, built: training.Built
) -> fit.Evaluator:
    return rounds.figures(built.directory, built.own.on_policy.steps_per_round)


def _own(cfg: Any) -> _Own:
    return _Own(distillation.known(cfg), cfg.on_policy)


def _frozen(built: training.Built, start: training.Start) -> Mapping[str, model.Weights]:
    return distillation.frozen(built._replace(own=built.own.known), start)


def _expect(own: _Own) -> None:
    teachers.expect(own.known)
    playing.expect_sound(own.on_policy.rollouts)


JOB = measuring(distillation.over(sft.JOB), _figures)._replace(
    source=_source,
    check=lambda corpus, cfg: _expect(_own(cfg)),
    own=_own,
    frozen=_frozen,
)
run = training.of(JOB)
