"""Training on preferences: pairs of answers in JSON lines, against a frozen reference.

The reference is the weights before the first step: train.init_from's, or fresh ones. Its
log-probabilities are computed in every step, or once before the first and kept in the data's cache;
then no second model is held. Routing is part of the policy that the loss sees, so the router's bias
stays as it is. `kanana_jax.data.preferences` says what a line holds.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from kanana_jax import config, model
from kanana_jax.config import fields
from kanana_jax.config.ranges import Factor, LossWeight, Range
from kanana_jax.data import preferences
from kanana_jax.data.whole_documents import WholeDocuments
from kanana_jax.jobs import answer_pairs, chats, curves, reference, training
from kanana_jax.jobs.packed import PackedSource
from kanana_jax.objectives.dpo import dpo, dpo_norm
from kanana_jax.objectives.ipo import ipo
from kanana_jax.objectives.preference import Preference
from kanana_jax.train import fit


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """The loss; `kanana_jax.objectives.preference` has its formula."""

    # dpo sums an answer's tokens; dpo_norm, as ipo, takes their mean.
    loss: Literal["dpo", "dpo_norm", "ipo"] = "dpo"
    beta: Factor = 0.1  # larger: closer to the reference; 5 is usual for dpo_norm
    # The share of pairs whose labels are taken to be swapped.
    label_smoothing: Annotated[float, Range(0.0, 0.5, "half of them say nothing", "[)")] = 0.0
    sft_weight: LossWeight = 0.0  # of the chosen answer's mean negative log-likelihood
    # Cached: no reference weights in memory and no forward pass of theirs in a step.
    reference: Literal["computed", "cached"] = "computed"

    def __post_init__(self):
        fields.check(self, "preference")
        if self.loss == "ipo" and self.label_smoothing:
            raise config.ConfigError(
                "preference.label_smoothing must be 0 with preference.loss = ipo, whose margin has "
                f"a target already; got {self.label_smoothing}"
            )


@dataclass(frozen=True, kw_only=True)
class Config(config.TrainingConfig):
    """The settings of every job that trains, and `preference`; data.paths name files of pairs."""

    preference: PreferenceConfig = PreferenceConfig()
    train: config.TrainConfig = answer_pairs.STILL

    def __post_init__(self):
        super().__post_init__()
        answer_pairs.expect_still(self.train, "preference training")


def _objective(cfg: Config) -> Preference:
    chosen = cfg.preference
    options = {"sft_weight": chosen.sft_weight, "reference": chosen.reference}
    if chosen.loss == "ipo":
        return ipo(chosen.beta, **options)
    make = dpo if chosen.loss == "dpo" else dpo_norm
    return make(chosen.beta, chosen.label_smoothing, **options)


def _frozen(built: training.Built, start: training.Start) -> Mapping[str, model.Weights]:
    return {"reference": start.first_weights()} if built.objective.frozen else {}


def _prepared(
    corpus: WholeDocuments, cfg: config.DataConfig, built: training.Built, start: training.Start
) -> WholeDocuments:
    if not built.objective.columns:
        return corpus
    found = reference.column(corpus, cfg, built, start)
    return dataclasses.replace(corpus, columns={"reference": found})


def _evaluators(
    corpus: WholeDocuments,
    cfg: config.DataConfig,
    train: config.TrainConfig,
    built: training.Built,
) -> tuple[fit.Evaluator, ...]:
    return (answer_pairs.evaluator("heldout_preference", corpus, cfg, train, built),)


JOB = training.Job(
    objective=_objective,
    read=preferences.read,
    source=training.stored(PackedSource),
    evaluators=_evaluators,
    begin=chats.begin,
    frozen=_frozen,
    prepared=_prepared,
    pictures=(
        answer_pairs.ORDER,
        answer_pairs.curve(
            "rewards",
            "Rewards of both answers",
            "beta times the log-probability against the reference. Where both fall, the model "
            "forgets the chosen answers too.",
            ("chosen_reward", "chosen"),
            ("rejected_reward", "rejected"),
            ("chosen_nll", "chosen: nats per token"),
        ),
        *curves.TRAINING,
    ),
    headline=answer_pairs.headline,
    columns=answer_pairs.COLUMNS,
)
run = training.of(JOB)
