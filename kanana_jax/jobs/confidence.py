"""The evaluator of calibration: how well three kinds of confidence tell which answers are right.

    stated       P(yes) / (P(yes) + P(no))  after the question whether it is sure
    likelihood   exp of the mean log-probability of the answer's tokens
    agreement    the share of sampled answers that equal the greedy one

Answers are greedy, so accuracy depends on the weights alone. A temperature is fitted on tasks of
the training side and applied to the confidence on held-out ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from kanana_jax import config, model
from kanana_jax.config import RolloutConfig
from kanana_jax.data.chat import Origin
from kanana_jax.evaluate import calibration, pass_at_k
from kanana_jax.jobs import playing
from kanana_jax.jobs.job import Built, Job, measuring
from kanana_jax.rollouts import confidence as asking
from kanana_jax.rollouts.episodes import Episode
from kanana_jax.rollouts.store import Segment
from kanana_jax.rollouts.task import Task
from kanana_jax.train import fit

KINDS = ("stated", "likelihood", "agreement")


class Asked(NamedTuple):
    is_right_N: Bool[np.ndarray, "N"]
    confidence: Mapping[str, Float[np.ndarray, "N"]]  # by kind


def evaluator(
    player: playing.Playing,
    *,
    num_heldout: int,
    num_agreeing: int,
    threshold: float,
    every: int,
) -> fit.Evaluator:
    """`heldout_ece_KIND` and `heldout_brier_KIND`, also `_tempered`; `heldout_answer_accuracy`.

    Also the bins of the reliability diagram, `heldout_bin_confidence_KIND` and
    `heldout_bin_accuracy_KIND`. What was not answered counts as wrong, with a confidence of 0.
    """
    heldout = player.heldout_tasks(num_heldout)
    fitting = player.tasks(_FITTING_ROUND)

    def measure(weights: model.Weights) -> Mapping[str, object]:
        of_heldout = _ask(player, weights, heldout, num_agreeing, threshold)
        of_fitting = _ask(player, weights, fitting, num_agreeing, threshold)
        return summarize(of_heldout, of_fitting)

    return fit.Evaluator("heldout_calibration", every, measure)


def measured(job: Job, rollouts: RolloutConfig, *, num_heldout: int, num_agreeing: int = 4) -> Job:
    """`job`, which measures this too, at the end of training."""

    def make(
        corpus: Any, cfg: config.DataConfig, train: config.TrainConfig, built: Built
    ) -> fit.Evaluator:
        return evaluator(
            playing.Playing(rollouts, cfg, corpus.tokenizer, built),
            num_heldout=num_heldout,
            num_agreeing=num_agreeing,
            threshold=1.0,
            every=train.num_steps,
        )

    return measuring(job, make)


# No round that is trained on has its tasks.
_FITTING_ROUND = 1_000_000


def summarize(heldout: Asked, fitting: Asked) -> dict[str, object]:
    """What `evaluator` measures."""
    right_N = heldout.is_right_N
    accuracy = pass_at_k.mean(right_N.astype(float).tolist())
    found: dict[str, object] = dict(pass_at_k.named({"heldout_answer_accuracy": accuracy}))
    for kind in KINDS:
        confidence_N = heldout.confidence[kind]
        temperature = calibration.fit_temperature(fitting.confidence[kind], fitting.is_right_N)
        for suffix, x_N in (
            ("", confidence_N),
            ("_tempered", calibration.tempered(confidence_N, temperature)),
        ):
            of_kind = calibration.measure(x_N, right_N)
            found[f"heldout_ece_{kind}{suffix}"] = of_kind.ece
            found[f"heldout_ece_{kind}{suffix}_stderr"] = of_kind.ece_stderr
            found[f"heldout_brier_{kind}{suffix}"] = of_kind.brier
        found |= _bins(kind, calibration.reliability(confidence_N, right_N))
    return found


def _bins(kind: str, found: calibration.Reliability) -> dict[str, object]:
    """Arrays of one length, whatever the number of bins."""
    padding = (0, calibration.NUM_BINS - len(found.count_B))
    return {
        f"heldout_bin_{name}_{kind}": np.pad(values_B, padding, constant_values=np.nan)
        for name, values_B in (("confidence", found.confidence_B), ("accuracy", found.accuracy_B))
    }


def _ask(
    player: playing.Playing,
    weights: model.Weights,
    drawn: Sequence[Task],
    num_agreeing: int,
    threshold: float,
) -> Asked:
    answered = player.play(weights, [(task, 0) for task in drawn], 0.0)
    sampled = player.play(
        weights, [(task, 1 + k) for task in drawn for k in range(num_agreeing)], 1.0
    )
    can = [asking.can_ask(one) for one in answered]
    groups = [sampled[k * num_agreeing :][:num_agreeing] for k in range(len(drawn))]
    confidence = {
        "stated": _stated(player, weights, answered, can),
        "likelihood": _likelihood(player, weights, answered, can),
        "agreement": np.array(
            [
                np.mean([other.answer == one.answer for other in group]) if is_asked else 0.0
                for one, group, is_asked in zip(answered, groups, can, strict=True)
            ]
        ),
    }
    right = [(one.reward or 0.0) >= threshold for one in answered]
    return Asked(np.array(right), confidence)


def _likelihood(
    player: playing.Playing, weights: model.Weights, answered: Sequence[Episode], can: list[bool]
) -> Float[np.ndarray, "N"]:
    found = np.zeros(len(answered))
    kept = [k for k, is_asked in enumerate(can) if is_asked]
    segments = [Segment(answered[k].ids, answered[k].origins) for k in kept]
    for k, logp_S in zip(kept, player.logp(weights, segments), strict=True):
        is_drawn_S = np.array(answered[k].origins[1:]) == Origin.MODEL
        found[k] = np.exp(logp_S[is_drawn_S].mean())
    return found


def _stated(
    player: playing.Playing, weights: model.Weights, answered: Sequence[Episode], can: list[bool]
) -> Float[np.ndarray, "N"]:
    asked, found = asking.Question(), np.zeros(len(answered))
    kept = [k for k, is_asked in enumerate(can) if is_asked]
    logs = []
    for word in (asked.yes, asked.no):
        segments = [
            asking.example(player.form, player.tokenizer, answered[k], asked, says=word).segments[0]
            for k in kept
        ]
        fits = [len(one.ids) <= player.length for one in segments]
        scored = iter(player.logp(weights, [s for s, ok in zip(segments, fits, strict=True) if ok]))
        logs.append(
            [
                next(scored)[np.array(one.origins[1:]) == Origin.MODEL].sum() if ok else 0.0
                for one, ok in zip(segments, fits, strict=True)
            ]
        )
    yes, no = map(np.array, logs)
    found[kept] = 1.0 / (1.0 + np.exp(no - yes))
    return found
