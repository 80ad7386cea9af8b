"""What a sweep shows about QK-Clip, computed from its runs.

At each learning rate, with every seed:

    blew up    an unclipped Muon arm's max logit passes GROWTH x tau
    bounded    the clipped arm's peak < PEAK x tau and the mean of its last tenth < TAIL x tau
    cost       clipped held-out loss - best unclipped Muon's, against NOISE_ERRORS standard errors

The clip held where Muon blew up if it was bounded there and cost nothing beyond noise. No outcome
is assumed: the words below cover success, failure, a tie, and a sweep in which nothing blew up.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kanana_jax.report import results, summary
from kanana_jax.report.results import RunResult
from kanana_jax.report.summary import Cell

GROWTH = 3.0
PEAK = 2.0
TAIL = 1.25
NOISE_ERRORS = 2.0
# Bits per byte; used only where neither seeds nor a sampling error tell the noise.
FALLBACK_NOISE_BPB = 0.01


@dataclass(frozen=True)
class Claim:
    """A question about the sweep; `holds` is None where there is nothing to judge."""

    question: str
    holds: bool | None
    answer: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Held-out loss of a clipped arm against the best unclipped Muon arm at one rate."""

    outcome: Literal["better", "within noise", "worse", "not measured"]
    words: str


@dataclass(frozen=True)
class RateOutcome:
    """What one clipped arm did at one learning rate."""

    lr: float
    blew_up: bool
    bounded: bool | None  # None: not run, or no max logit recorded
    comparison: Comparison
    words: str

    @property
    def held(self) -> bool:
        return self.bounded is True and self.comparison.outcome != "worse"


@dataclass(frozen=True)
class Verdict:
    headline: str
    claims: tuple[Claim, ...]
    outcomes: dict[str, tuple[RateOutcome, ...]]  # by clipped arm

    def text(self) -> str:
        """The verdict for a terminal."""
        marks = {True: "yes", False: "no", None: "-"}
        lines = [self.headline, ""]
        for claim in self.claims:
            lines.append(f"[{marks[claim.holds]:>3}] {claim.question}")
            lines.append(f"      {claim.answer}")
            lines += [f"        {detail}" for detail in claim.details]
        return "\n".join(lines) + "\n"


def judge(runs: Sequence[RunResult]) -> Verdict:
    """Reads the verdict off the runs of a sweep."""
    if not runs:
        raise ValueError("a verdict needs at least one finished run, got none.")
    cells = summary.summarize(runs)
    tau = runs[0].tau
    clipped = results.arms([run for run in runs if run.clipped])
    outcomes = {
        arm: tuple(_outcome(arm, lr, cells, tau) for lr in results.lrs(runs)) for arm in clipped
    }
    claims = [_growth_claim(cells, tau)]
    for arm in clipped:
        claims += [_bound_claim(arm, outcomes[arm]), _cost_claim(arm, outcomes[arm])]
    claims.append(_divergence_claim(cells))
    return Verdict(_headline(cells, outcomes, tau), tuple(claims), outcomes)


def compare(clipped: Cell, references: Sequence[Cell]) -> Comparison:
    """Sets a clipped cell against the best of the unclipped Muon cells at its rate.

    A cell of which any seed diverged loses to a cell of which none did.
    """
    living = [cell for cell in references if not cell.diverged and _is_measured(cell)]
    best = min(living, key=lambda cell: cell.heldout_bpb, default=None)
    if not references:
        return Comparison("not measured", "no unclipped Muon arm ran")
    if clipped.diverged:
        if best is None:
            return Comparison("not measured", "it and the unclipped Muon arms diverged")
        return Comparison("worse", f"it diverged and {best.arm} did not")
    if not _is_measured(clipped):
        return Comparison("not measured", "no held-out loss")
    if best is None:
        if any(not cell.diverged for cell in references):
            return Comparison("not measured", "no held-out loss of an unclipped Muon arm")
        return Comparison("better", "every unclipped Muon arm diverged")
    return _compare_losses(clipped, best)


def _compare_losses(clipped: Cell, best: Cell) -> Comparison:
    difference = clipped.heldout_bpb - best.heldout_bpb
    noise = NOISE_ERRORS * math.hypot(clipped.heldout_stderr, best.heldout_stderr)
    source = "over seeds" if min(clipped.num_seeds, best.num_seeds) > 1 else "of held-out sampling"
    if math.isnan(noise):
        noise, source = FALLBACK_NOISE_BPB, "by assumption, as none was measured"
    outcome = "within noise"
    if abs(difference) > noise:
        outcome = "better" if difference < 0 else "worse"
    return Comparison(
        outcome,
        f"{clipped.heldout_bpb:.4f} against {best.heldout_bpb:.4f} bits per byte of {best.arm}: "
        f"{difference:+.4f}, {outcome} (noise {noise:.4f} {source})",
    )


def _is_measured(cell: Cell) -> bool:
    return math.isfinite(cell.heldout_bpb)


def _references(cells: Sequence[Cell], lr: float) -> list[Cell]:
    return [cell for cell in cells if cell.lr == lr and cell.is_muon and not cell.clipped]


def _outcome(arm: str, lr: float, cells: Sequence[Cell], tau: float) -> RateOutcome:
    references = _references(cells, lr)
    blew_up = any(_blew_up(cell) for cell in references)
    cell = next((cell for cell in cells if cell.arm == arm and cell.lr == lr), None)
    if cell is None:
        absent = Comparison("not measured", "not run")
        return RateOutcome(lr, blew_up, None, absent, "not run")
    comparison = compare(cell, references)
    if cell.diverged:
        return RateOutcome(lr, blew_up, False, comparison, cell.status)
    if math.isnan(cell.peak):
        return RateOutcome(lr, blew_up, None, comparison, "no max logit recorded")
    bounded = cell.peak < PEAK and cell.tail < TAIL
    words = (
        f"peak {cell.peak * tau:.1f} ({cell.peak:.2f} x tau), "
        f"last tenth {summary.number(cell.tail, 2)} x tau, "
        + (f"{cell.clip_events:.0f} clip events" if cell.clip_events else "the clip never acted")
    )
    return RateOutcome(lr, blew_up, bounded, comparison, words)


def _blew_up(cell: Cell) -> bool:
    return cell.mildest_peak > GROWTH


def _growth_claim(cells: Sequence[Cell], tau: float) -> Claim:
    question = f"Do unclipped Muon arms pass {GROWTH:g} x tau = {GROWTH * tau:g}?"
    references = [cell for cell in cells if cell.is_muon and not cell.clipped]
    if not references:
        return Claim(question, None, "No unclipped Muon arm ran.")
    details = tuple(
        f"{cell.arm} at lr {cell.lr:g}: peak {cell.peak * tau:.1f} ({cell.peak:.2f} x tau)"
        for cell in references
        if _blew_up(cell)
    )
    if details:
        lrs = sorted({cell.lr for cell in references if _blew_up(cell)})
        return Claim(question, True, f"Yes, in every seed, at {_rates(lrs)}.", details)
    return Claim(question, False, f"At no rate in every seed; {_largest_peak(references, tau)}.")


def _largest_peak(references: Sequence[Cell], tau: float) -> str:
    measured = [cell for cell in references if not math.isnan(cell.peak)]
    if not measured:
        return "no max logit was recorded"
    top = max(measured, key=lambda cell: cell.peak)
    return (
        f"the largest peak is {top.peak * tau:.1f} ({top.peak:.2f} x tau), "
        f"{top.arm} at lr {top.lr:g}"
    )


def _bound_claim(arm: str, outcomes: Sequence[RateOutcome]) -> Claim:
    question = (
        f"Does {arm} stay below {PEAK:g} x tau at its peak and below {TAIL:g} x tau over its "
        "last tenth?"
    )
    details = tuple(f"lr {one.lr:g}: {one.words}" for one in outcomes)
    judged = [one for one in outcomes if one.bounded is not None]
    if not judged:
        return Claim(question, None, "Not measured.", details)
    broken = [one.lr for one in judged if not one.bounded]
    if broken:
        return Claim(question, False, f"Not at {_rates(broken)}.", details)
    return Claim(question, True, f"Yes, at {_rates([one.lr for one in judged])}.", details)


def _cost_claim(arm: str, outcomes: Sequence[RateOutcome]) -> Claim:
    question = (
        f"Is {arm}'s held-out loss within noise of, or better than, the best unclipped Muon arm's?"
    )
    details = tuple(f"lr {one.lr:g}: {one.comparison.words}" for one in outcomes)
    found = {
        outcome: [one.lr for one in outcomes if one.comparison.outcome == outcome]
        for outcome in ("better", "within noise", "worse")
    }
    parts = [f"{outcome} at {_rates(lrs)}" for outcome, lrs in found.items() if lrs]
    if not parts:
        return Claim(question, None, "Not measured.", details)
    answer = "; ".join(parts)
    return Claim(question, not found["worse"], f"{answer[0].upper()}{answer[1:]}.", details)


def _divergence_claim(cells: Sequence[Cell]) -> Claim:
    question = "Which arms diverged (NaN, infinity, or a loss above its start)?"
    details = tuple(
        f"{cell.arm} at lr {cell.lr:g}: {cell.status}" for cell in cells if cell.diverged
    )
    arms = dict.fromkeys(cell.arm for cell in cells if cell.diverged)
    return Claim(question, None, f"{_listed(list(arms))}." if arms else "None.", details)


def _headline(
    cells: Sequence[Cell], outcomes: dict[str, tuple[RateOutcome, ...]], tau: float
) -> str:
    references = [cell for cell in cells if cell.is_muon and not cell.clipped]
    if not outcomes:
        return "No arm applies QK-Clip, so this sweep says nothing about it."
    if not references:
        return f"No unclipped Muon arm ran, so {_listed(list(outcomes))} cannot be judged."
    if not any(_blew_up(cell) for cell in references):
        sentences = [
            f"Nothing blew up: no unclipped Muon arm passes {GROWTH:g} x tau in every seed at any "
            f"rate ({_largest_peak(references, tau)}), so this sweep cannot show what QK-Clip is "
            "for."
        ]
        for arm, rates in outcomes.items():
            broken = [one.lr for one in rates if one.bounded is False]
            if broken:
                sentences.append(f"{arm} itself left its bounds at {_rates(broken)}.")
        return " ".join(sentences)
    return " ".join(_arm_headline(arm, rates) for arm, rates in outcomes.items())


def _arm_headline(arm: str, outcomes: Sequence[RateOutcome]) -> str:
    stress = [one for one in outcomes if one.blew_up]
    held = [one for one in stress if one.held]
    failed = [one for one in stress if not one.held]
    where = f"where unclipped Muon's attention logits pass {GROWTH:g} x tau"
    reasons = "; ".join(f"lr {one.lr:g}: {_failure(one)}" for one in failed)
    if not held:
        return f"{arm} failed: at {_rates([one.lr for one in stress])}, {where}, {reasons}."
    kept = (
        f"at {_rates([one.lr for one in held])}, {where}, its logits stay bounded and its held-out "
        f"loss is {_loss_words(held)}"
    )
    costly = [one.lr for one in outcomes if one.comparison.outcome == "worse" and not one.blew_up]
    price = f" Its held-out loss is worse at {_rates(costly)}." if costly else ""
    if not failed:
        return f"{arm} held: {kept}.{price}"
    return f"{arm} held only in part: {kept}. It failed at {reasons}.{price}"


def _failure(outcome: RateOutcome) -> str:
    reasons = []
    if outcome.bounded is not True:
        reasons.append(outcome.words)
    if outcome.comparison.outcome == "worse":
        reasons.append(f"held-out loss worse: {outcome.comparison.words}")
    return ", ".join(reasons)


def _loss_words(held: Sequence[RateOutcome]) -> str:
    words = {
        "better": "better than the best unclipped Muon arm's",
        "within noise": "within noise of the best unclipped Muon arm's",
        "not measured": "not measured",
    }
    groups = {
        outcome: [one.lr for one in held if one.comparison.outcome == outcome] for outcome in words
    }
    groups = {outcome: lrs for outcome, lrs in groups.items() if lrs}
    if len(groups) == 1:
        return words[next(iter(groups))]
    return ", ".join(f"{words[outcome]} (lr {_numbers(lrs)})" for outcome, lrs in groups.items())


def _rates(lrs: Sequence[float]) -> str:
    return f"lr {_numbers(lrs)}"


def _numbers(lrs: Sequence[float]) -> str:
    return _listed([f"{lr:g}" for lr in lrs])


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
