"""The words of the report: what QK-Clip is, and what became of it."""

import math
from collections.abc import Mapping, Sequence

from experiments.muon_stress.outcomes import GROWTH, RateOutcome, blew_up
from kanana_jax.jobs import curves
from kanana_jax.report import claims, pairs
from kanana_jax.report.tables import Cell

QK_CLIP = (
    "Attention weighs every pair of tokens by a product of a query and a key, the attention logit; "
    "Muon's full-rank updates can make the weights behind both grow until the largest logit of a "
    "head runs away and its softmax sees only one token. QK-Clip looks at the largest logit of "
    "each head after every step: where it exceeds a threshold tau, it shrinks that head's query "
    "and key weights so that their product falls by the factor gamma = tau / max logit, and it "
    "touches no other head. As the clip acts on the step after the one that overshot, a working "
    "clip lets the max logit hover around tau rather than stay strictly below it, and its price, "
    "if it has one, shows in the held-out loss."
)


def headline(
    cells: Sequence[Cell],
    references: Sequence[Cell],
    outcomes: Mapping[str, Sequence[RateOutcome]],
) -> str:
    """The verdict in a sentence or two; `references` are the cells of unclipped Muon arms."""
    if not outcomes:
        return "No arm applies QK-Clip, so this sweep says nothing about it."
    if not references:
        return f"No unclipped Muon arm ran, so {claims.listed(list(outcomes))} cannot be judged."
    if not any(blew_up(cell) for cell in references):
        sentences = [
            f"Nothing blew up: no unclipped Muon arm passes {GROWTH:g} x tau in every seed at any "
            f"rate ({largest_peak(references)}), so this sweep cannot show what QK-Clip is for."
        ]
        for arm, at_rates in outcomes.items():
            broken = [one.lr for one in at_rates if one.bounded is False]
            if broken:
                sentences.append(f"{arm} itself left its bounds at {rates(broken)}.")
        return " ".join(sentences)
    sentences = [_arm_headline(arm, at_rates) for arm, at_rates in outcomes.items()]
    sentences.append(claims.few_seeds(cells))
    return " ".join(sentences).strip()


def _arm_headline(arm: str, outcomes: Sequence[RateOutcome]) -> str:
    stress = [one for one in outcomes if one.blew_up]
    held = [one for one in stress if one.held]
    failed = [one for one in stress if not one.held]
    where = f"where unclipped Muon's attention logits pass {GROWTH:g} x tau"
    reasons = "; ".join(f"lr {one.lr:g}: {_failure(one)}" for one in failed)
    if not held:
        return f"{arm} failed: at {rates([one.lr for one in stress])}, {where}, {reasons}."
    kept = (
        f"at {rates([one.lr for one in held])}, {where}, its logits stay bounded and its held-out "
        f"loss is {_loss_words(held)}"
    )
    costly = [one.lr for one in outcomes if one.comparison.outcome == "worse" and not one.blew_up]
    price = f" Its held-out loss is worse at {rates(costly)}." if costly else ""
    if not failed:
        return f"{arm} held: {kept}.{price}"
    return f"{arm} held only in part: {kept}. It failed at {reasons}.{price}"


def _failure(outcome: RateOutcome) -> str:
    reasons = []
    if outcome.bounded is not True:
        reasons.append(outcome.words)
    if outcome.comparison.outcome == "worse":
        reasons.append(f"held-out loss worse: {'; '.join(outcome.comparison.words)}")
    return ", ".join(reasons)


def _loss_words(held: Sequence[RateOutcome]) -> str:
    words = {
        "better": "better than every unclipped Muon arm's",
        "equal": f"within {pairs.MARGIN_BPB:g} bits per byte of every unclipped Muon arm's, or "
        "better",
        "not resolved": "not told apart from every unclipped Muon arm's by these seeds",
        "not measured": "not measured",
    }
    groups = {
        outcome: [one.lr for one in held if one.comparison.outcome == outcome] for outcome in words
    }
    groups = {outcome: lrs for outcome, lrs in groups.items() if lrs}
    if len(groups) == 1:
        return words[next(iter(groups))]
    return ", ".join(f"{words[outcome]} (lr {_numbers(lrs)})" for outcome, lrs in groups.items())


def rates(lrs: Sequence[float]) -> str:
    """ "lr 0.004 and 0.015"."""
    return f"lr {_numbers(lrs)}"


def _numbers(lrs: Sequence[float]) -> str:
    return claims.listed([f"{lr:g}" for lr in lrs])


def largest_peak(cells: Sequence[Cell]) -> str:
    """Where max logits get highest, as part of a sentence."""
    peaks = [(curves.worst_peak(cell), cell) for cell in cells]
    measured = [(peak, cell) for peak, cell in peaks if not math.isnan(peak)]
    if not measured:
        return "no max logit was recorded"
    peak, cell = max(measured, key=lambda one: one[0])
    return f"the largest peak is {peak:.2f} x tau, {cell.words}"
