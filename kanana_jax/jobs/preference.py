"""Direct preference optimization: pairs of answers in JSON lines, against a frozen reference.

The reference are the weights before the first step: train.init_from's, or fresh ones. Routing is
part of the policy that the loss sees, so its bias stays as it is. `kanana_jax.data.preferences`
says what a line holds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import jax

from kanana_jax import config, model
from kanana_jax.batch import Batch
from kanana_jax.config import fields
from kanana_jax.config.ranges import Factor, Range
from kanana_jax.data import preferences
from kanana_jax.data.whole_documents import WholeDocuments
from kanana_jax.jobs import chats, curves, training
from kanana_jax.jobs.packed import PackedSource
from kanana_jax.objectives.preference import Preference
from kanana_jax.report import tables
from kanana_jax.report.curves import Curve, Row
from kanana_jax.report.results import Run
from kanana_jax.train import fit

_MEANS = ("loss", "accuracy", "margin")


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """The loss; `kanana_jax.objectives.preference` has its formula."""

    beta: Factor = 0.1  # larger: closer to the reference
    # The share of pairs whose labels are taken to be swapped.
    label_smoothing: Annotated[float, Range(0.0, 0.5, "half of them say nothing", "[)")] = 0.0

    def __post_init__(self):
        fields.check(self, "preference")


@dataclass(frozen=True, kw_only=True)
class Config(config.TrainingConfig):
    """The settings of every job that trains, and `preference`; data.paths name files of pairs."""

    preference: PreferenceConfig = PreferenceConfig()
    train: config.TrainConfig = config.TrainConfig(  # noqa: RUF009
        z_loss_weight=0.0, balance_loss_weight=0.0, router_bias_rate=0.0
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("z_loss_weight", "balance_loss_weight", "router_bias_rate"):
            if getattr(self.train, name):
                raise config.ConfigError(
                    f"train.{name} must be 0 in preference training, where it would move the model "
                    f"beside the loss; got {getattr(self.train, name)}"
                )
        if self.train.router_balance != "sign":
            raise config.ConfigError(
                "train.router_balance must be sign in preference training, where a rate of 0 keeps "
                f"the router's bias; got {self.train.router_balance}"
            )


def _objective(cfg: Config) -> Preference:
    return Preference(cfg.preference.beta, cfg.preference.label_smoothing)


def _frozen(first_weights: Callable[[], model.Weights]) -> Mapping[str, model.Weights]:
    return {"reference": first_weights()}


def _evaluators(
    corpus: WholeDocuments,
    cfg: config.DataConfig,
    train: config.TrainConfig,
    built: training.Built,
) -> tuple[fit.Evaluator, ...]:
    """Loss, accuracy and margin on held-out pairs; batches count by their pairs."""
    objective, logp = built.objective, built.steps.logp
    batches = [
        built.place(batch, cfg.batch_size)
        for batch in corpus.heldout_batches(cfg, train.eval_batches, built.rows(cfg.batch_size))
    ]
    of_reference = [logp(built.frozen["reference"], batch) for batch in batches]

    @jax.jit
    def sums(logp_BS: Any, reference_BS: Any, batch: Batch) -> tuple[dict[str, Any], Any]:
        totals = objective.totals(batch)
        seen = objective.seen(logp_BS, logp_BS, batch, totals, {"reference": reference_BS})
        return {name: seen.sums[name] * totals for name in _MEANS}, totals

    def measure(weights: model.Weights) -> dict[str, float]:
        found = [
            jax.device_get(sums(logp(weights, batch), reference, batch))
            for batch, reference in zip(batches, of_reference, strict=True)
        ]
        num_pairs = sum(float(count) for _, count in found)
        return {
            f"heldout_{name}": sum(float(one[name]) for one, _ in found) / num_pairs
            for name in _MEANS
        }

    return (fit.Evaluator("heldout_preference", train.eval_interval_steps, measure),)


def _curve(name: str, title: str, reading: str, *rows: tuple[str, str]) -> Curve:
    made = (Row(key=key, label=label, is_smoothed=True) for key, label in rows)
    return Curve(name=name, title=title, reading=reading, rows=tuple(made))


def _headline(run: Run) -> str:
    """How a run ended, in a sentence."""
    accuracy = run.value("heldout_accuracy")
    return f"{run.status}: {accuracy:.1%} of held-out pairs in the right order, {run.steps} steps."


JOB = training.Job(
    objective=_objective,
    read=preferences.read,
    source=training.stored(PackedSource),
    evaluators=_evaluators,
    begin=chats.begin,
    frozen=_frozen,
    pictures=(
        _curve(
            "preference",
            "Pairs in the right order, and by how much",
            "Accuracy is the share of training pairs whose chosen answer has the larger reward, "
            "the margin the mean difference of the rewards.",
            ("accuracy", "accuracy"),
            ("margin", "margin"),
        ),
        _curve(
            "rewards",
            "Rewards of both answers",
            "beta times the log-probability against the reference. Where both fall, the model "
            "forgets the chosen answers too.",
            ("chosen_reward", "chosen"),
            ("rejected_reward", "rejected"),
        ),
        *curves.TRAINING,
    ),
    headline=_headline,
    columns=tuple(tables.number_column(f"heldout_{name}") for name in _MEANS),
)
run = training.of(JOB)
