"""Online preference optimization: the model's own answers, the best of them against the worst.

    round:  prompts -> samples -> judge -> best against worst -> train          arXiv:2402.04792

The reference stays what the run began with (Kanana-1, arXiv:2502.18934: a reference that moves on
makes answers longer). data.paths name pairs as for `preference`; 1 - `online.share` of the rows
come from them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kanana_jax import config, data, model
from kanana_jax.config import fields
from kanana_jax.config.ranges import Count, Factor, Share
from kanana_jax.data.whole_documents import WholeDocuments
from kanana_jax.evaluate import pass_at_k
from kanana_jax.jobs import judges, playing, preference, rounds, training
from kanana_jax.rollouts import judging, store
from kanana_jax.train import fit


@dataclass(frozen=True, kw_only=True)
class OnlineConfig:
    """Whose answers are judged, and by whom."""

    rollouts: config.RolloutConfig
    judge: judges.JudgeConfig = judges.JudgeConfig()  # noqa: RUF009
    steps_per_round: Count = 10
    share: Share = 1.0  # of a batch's rows, from the newest round
    min_gap: Factor = 1e-3  # the least difference between the scores of a pair
    num_heldout: Count = 64  # tasks that measure it

    def __post_init__(self):
        fields.check(self, "online")


@dataclass(frozen=True, kw_only=True)
class Config(preference.Config):
    """The settings of `preference`, and `online`."""

    online: OnlineConfig


class _Own(NamedTuple):
    online: OnlineConfig
    seed: int


def _source(
    corpus: WholeDocuments,
    cfg: config.DataConfig,
    stages: Sequence[data.Stage],
    built: training.Built,
) -> fit.Source:
    own, seed = built.own
    player = playing.Playing(own.rollouts, cfg, corpus.tokenizer, built)
    judge = judges.of(own.judge, player, built, seed)

    def collect(weights: model.Weights, index: int) -> store.Round:
        groups = player.groups(weights, index)
        scores = iter(judge([one for group in groups for one in group]))
        by_group = [[next(scores) for _ in group] for group in groups]
        return judging.pairs(groups, by_group, min_gap=own.min_gap, length=cfg.seq_len)

    plan = rounds.Plan(own.steps_per_round, own.share, keeps=False, collect=collect)
    return rounds.RoundsSource(corpus, cfg, stages, built.directory, plan)


def _evaluators(
    corpus: WholeDocuments,
    cfg: config.DataConfig,
    train: config.TrainConfig,
    built: training.Built,
) -> tuple[fit.Evaluator, ...]:
    own, _ = built.own
    player = playing.Playing(own.rollouts, cfg, corpus.tokenizer, built)
    return (
        *preference.JOB.evaluators(corpus, cfg, train, built),
        win_rate(player, built.frozen["reference"], own.num_heldout, train.num_steps),
        rounds.figures(built.directory, own.steps_per_round),
    )


def win_rate(
    player: playing.Playing, reference: model.Weights, num_tasks: int, every: int
) -> fit.Evaluator:
    """Greedy answers against the reference's, by the tasks' own graders; a draw counts one half.

    Measures `heldout_win_rate`, and by `heldout_longer_by` how many bytes longer the answers are.
    """
    tries = [(task, 0) for task in player.heldout_tasks(num_tasks)]

    def measure(weights: model.Weights) -> Mapping[str, float]:
        ours, theirs = (player.play(one, tries, 0.0) for one in (weights, reference))
        pairs = list(zip(ours, theirs, strict=True))
        gaps = [(one.reward or 0.0) - (other.reward or 0.0) for one, other in pairs]
        longer = [len(one.answer.encode()) - len(other.answer.encode()) for one, other in pairs]
        shares = {
            "heldout_win_rate": pass_at_k.mean([(gap > 0) + 0.5 * (gap == 0) for gap in gaps]),
            "heldout_longer_by": pass_at_k.mean(longer),
        }
        return pass_at_k.named(shares)

    return fit.Evaluator("heldout_win_rate", every, measure)


JOB = preference.JOB._replace(
    check=lambda corpus, cfg: playing.expect_sound(cfg.online.rollouts),
    source=_source,
    evaluators=_evaluators,
    own=lambda cfg: _Own(cfg.online, cfg.train.seed),
)
run = training.of(JOB)
