"""What jobs on pairs of answers share: what they refuse, how they measure, what they show."""

from typing import Any

import jax

from kanana_jax import config, model
from kanana_jax.batch import Batch
from kanana_jax.data.whole_documents import WholeDocuments
from kanana_jax.jobs.job import Built
from kanana_jax.report import tables
from kanana_jax.report.curves import Curve, Row
from kanana_jax.report.results import Run
from kanana_jax.report.tables import Column
from kanana_jax.train import fit

MEANS = ("loss", "accuracy", "margin")

# Nothing but the loss moves the model; the router's bias is part of what the loss sees.
STILL = config.TrainConfig(z_loss_weight=0.0, balance_loss_weight=0.0, router_bias_rate=0.0)


def expect_still(train: config.TrainConfig, what: str) -> None:
    """Raises ConfigError where a setting besides the loss would move the model."""
    for name in ("z_loss_weight", "balance_loss_weight", "router_bias_rate"):
        if getattr(train, name):
            raise config.ConfigError(
                f"train.{name} must be 0 in {what}, where it would move the model "
                f"beside the loss; got {getattr(train, name)}"
            )
    if train.router_balance != "sign":
        raise config.ConfigError(
            f"train.router_balance must be sign in {what}, where a rate of 0 keeps "
            f"the router's bias; got {train.router_balance}"
        )


def evaluator(
    name: str,
    corpus: WholeDocuments,
    cfg: config.DataConfig,
    train: config.TrainConfig,
    built: Built,
) -> fit.Evaluator:
    """Loss, accuracy and margin on held-out pairs; batches count by their pairs."""
    objective, steps = built.objective, built.steps
    read = steps.scalars if objective.reads_scalars else steps.logp
    batches = [
        built.place(batch, cfg.batch_size)
        for batch in corpus.heldout_batches(cfg, train.eval_batches, built.rows(cfg.batch_size))
    ]
    of_frozen = [
        {name: steps.logp(weights, batch) for name, weights in built.frozen.items()}
        for batch in batches
    ]

    @jax.jit
    def sums(value_BS: Any, frozen: dict[str, Any], batch: Batch) -> tuple[dict[str, Any], Any]:
        totals = objective.totals(batch)
        seen = objective.seen(value_BS, value_BS, batch, totals, frozen)
        return {name: seen.sums[name] * totals for name in MEANS}, totals

    def measure(weights: model.Weights) -> dict[str, float]:
        found = [
            jax.device_get(sums(read(weights, batch), frozen, batch))
            for batch, frozen in zip(batches, of_frozen, strict=True)
        ]
        num_pairs = sum(float(count) for _, count in found)
        return {
            f"heldout_{name}": sum(float(one[name]) for one, _ in found) / num_pairs
            for name in MEANS
        }

    return fit.Evaluator(name, train.eval_interval_steps, measure)


def curve(name: str, title: str, reading: str, *rows: tuple[str, str]) -> Curve:
    """A picture of smoothed metrics, each a key and its label."""
    made = (Row(key=key, label=label, is_smoothed=True) for key, label in rows)
    return Curve(name=name, title=title, reading=reading, rows=tuple(made))


ORDER = curve(
    "preference",
    "Pairs in the right order, and by how much",
    "Accuracy is the share of training pairs whose chosen answer has the larger reward, "
    "the margin the mean difference of the rewards.",
    ("accuracy", "accuracy"),
    ("margin", "margin"),
)

COLUMNS: tuple[Column, ...] = tuple(tables.number_column(f"heldout_{name}") for name in MEANS)


def headline(run: Run) -> str:
    """How a run ended, in a sentence."""
    accuracy = run.value("heldout_accuracy")
    return (
        f"{run.status}: {accuracy:.1%} of held-out pairs in the right order, {run.steps} steps, "
        "router bias frozen."
    )
