"""Reinforcement learning: the model tries tasks, and what earned more becomes more likely.

    round:  prompts -> tries -> reward -> advantage -> updates -> next round

The sampler shares its weights with the trainer, and a draw depends on weights, prompt and seed
alone. data.paths name conversations, as for `sft`; rl.stored_share of the rows come from them.
`over` takes another job's data. The router's bias is part of the policy, so it stays as it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kanana_jax import config, data, model
from kanana_jax.jobs import (
    answer_pairs,
    curves,
    initial,
    judges,
    playing,
    rl_losses,
    rl_source,
    rounds,
    sft,
    training,
)
from kanana_jax.jobs.rl_rounds import Rounds
from kanana_jax.jobs.rl_segments import Segments
from kanana_jax.report.curves import Curve, Row
from kanana_jax.rollouts import groups
from kanana_jax.train import fit


@dataclass(frozen=True, kw_only=True)
class Config(config.TrainingConfig):
    """The settings of every job that trains, `rl`, and `judge`, the judge of rl.reward=judge."""

    rl: config.RLConfig
    judge: judges.JudgeConfig = judges.JudgeConfig()  # noqa: RUF009
    train: config.TrainConfig = answer_pairs.STILL

    def __post_init__(self):
        super().__post_init__()
        answer_pairs.expect_still(self.train, "reinforcement learning")
        objective = rl_losses.objective(self.rl)
        if self.rl.reward != "judge":
            groups.reward_of(self.rl.reward)
        if objective.critic and not self.model.scalar_head:
            raise config.ConfigError(
                f"rl.loss={self.rl.loss} trains a critic, which is the model's scalar head; set "
                "model.scalar_head=true"
            )
        rl_source.steps_per_round(self.rl, self.data.batch_size)


class _Own(NamedTuple):
    rl: config.RLConfig
    judge: judges.JudgeConfig
    train: config.TrainConfig


def over(job: training.Job) -> training.Job:
    """Reinforcement learning whose stored rows and held-out text are those of `job`."""

    def source(
        corpus: Any,
        cfg: config.DataConfig,
        stages: Sequence[data.Stage],
        built: training.Built,
    ) -> fit.Source:
        own: _Own = built.own
        player = playing.Playing(own.rl.rollouts, cfg, corpus.tokenizer, built)
        segments = Segments(own.rl, player, built, _start_of(own.train, built))
        num_rounds = -(-stages[0].num_batches // rl_source.steps_per_round(own.rl, cfg.batch_size))
        made = Rounds(own.rl, player, _rewards(own, player, built), segments, num_rounds)

        def stored(some: Sequence[data.Stage]) -> fit.Source:
            return job.source(corpus, cfg, some, built)

        return rl_source.RolloutSource(own.rl, cfg, stages, built, made, stored)

    def evaluators(
        corpus: Any, cfg: config.DataConfig, train: config.TrainConfig, built: training.Built
    ) -> tuple[fit.Evaluator, ...]:
        own: _Own = built.own
        every = rl_source.steps_per_round(own.rl, cfg.batch_size)
        found = job.evaluators(corpus, cfg, train, built)
        return (*found, rounds.figures(built.directory, every))

    return job._replace(
        objective=lambda cfg: rl_losses.objective(cfg.rl),
        source=source,
        evaluators=evaluators,
        check=lambda corpus, cfg: playing.expect_sound(cfg.rl.rollouts),
        own=lambda cfg: _Own(cfg.rl, cfg.judge, cfg.train),
        pictures=(ROUNDS, *curves.TRAINING),
    )


def _start_of(train: config.TrainConfig, built: training.Built) -> Callable[[], model.Weights]:
    """The weights before the first step."""
    if not train.init_from:
        return lambda: built.steps.weights(train.seed)
    return lambda: initial.restore(train.init_from, built.steps.like_whole)


def _rewards(own: _Own, player: playing.Playing, built: training.Built) -> judges.Judge:
    if own.rl.reward == "judge":
        return judges.of(own.judge, player, built, own.train.seed)
    reward = groups.reward_of(own.rl.reward)
    return lambda played: [reward(one) for one in played]


ROUNDS = Curve(
    name="rounds",
    title="What the tries of a round were",
    reading="Shares of the tries of each round: solved, and with a reasoning; and of its groups "
    "those whose tries are all worth the same.",
    rows=(
        Row(key="round_success", label="solved", is_marked=True, bottom=0.0, top=1.0),
        Row(key="round_reasoned", label="reasoned", is_marked=True, bottom=0.0, top=1.0),
        Row(key="round_equal_share", label="equal groups", is_marked=True, bottom=0.0, top=1.0),
    ),
)

JOB = over(sft.JOB)
run = training.of(JOB)
