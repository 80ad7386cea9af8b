"""What a sweep shows about QK-Clip, computed from its runs.

At each learning rate, with every seed:

    blew up    an unclipped Muon arm's max logit passes GROWTH x tau
    bounded    the clipped arm's peak < PEAK x tau and the mean of its last tenth < TAIL x tau
    cost       clipped held-out loss - each unclipped Muon arm's, paired (`pairs`, `statistics`)

The clip held where Muon blew up if it was bounded there and is not worse than any unclipped Muon
arm. Arms are also set against each other around their own best rates (`own_rates`). No outcome is
assumed: the words below cover success, failure, a tie, a sweep in which nothing blew up, and too
few seeds to tell.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kanana_jax.report import own_rates, pairs, results, statistics, summary
from kanana_jax.report.pairs import Comparison
from kanana_jax.report.results import RunResult
from kanana_jax.report.summary import Cell

GROWTH = 3.0
PEAK = 2.0
TAIL = 1.25


@dataclass(frozen=True)
class Claim:
    """A question about the sweep; `holds` is None where there is nothing to judge."""

    question: str
    holds: bool | None
    answer: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class RateOutcome:
    """What one clipped arm did at one learning rate, beside the unclipped Muon arms."""

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
    clipped = results.arms([run for run in runs if run.clipped])
    outcomes = {
        arm: tuple(_outcome(arm, lr, runs, cells) for lr in _rates_of(arm, runs)) for arm in clipped
    }
    claims = [_growth_claim(cells)]
    for arm in clipped:
        claims += [_bound_claim(arm, outcomes[arm]), _cost_claim(arm, outcomes[arm])]
    if not any(_is_reference(run) for run in runs):
        claims += [_first_arm_claim(arm, runs) for arm in results.arms(runs)[1:]]
    if len(results.lrs(runs)) > 1:
        claims += _own_rate_claims(runs, clipped)
    claims.append(_divergence_claim(cells))
    return Verdict(_headline(cells, outcomes), tuple(claims), outcomes)


def _rates_of(arm: str, runs: Sequence[RunResult]) -> list[float]:
    """The rates at which `arm` or an unclipped Muon arm ran."""
    return results.lrs([run for run in runs if run.arm == arm or _is_reference(run)])


def _is_reference(one: RunResult | Cell) -> bool:
    return one.is_muon and not one.clipped


def _outcome(arm: str, lr: float, runs: Sequence[RunResult], cells: Sequence[Cell]) -> RateOutcome:
    at_lr = results.select(runs, lr=lr)
    blew_up = any(_blew_up(cell) for cell in cells if cell.lr == lr and _is_reference(cell))
    comparison = pairs.compare(
        results.select(at_lr, arm=arm), [run for run in at_lr if _is_reference(run)]
    )
    cell = next((cell for cell in cells if cell.arm == arm and cell.lr == lr), None)
    if cell is None:
        return RateOutcome(lr, blew_up, None, comparison, "not run")
    if cell.diverged:
        return RateOutcome(lr, blew_up, False, comparison, cell.status)
    if math.isnan(cell.peak):
        return RateOutcome(lr, blew_up, None, comparison, "no max logit recorded")
    bounded = cell.peak < PEAK and cell.tail < TAIL
    words = f"peak {cell.peak:.2f} x tau, last tenth {summary.number(cell.tail, 2)} x tau, " + (
        f"{cell.clip_events:.0f} clip events" if cell.clip_events else "the clip never acted"
    )
    return RateOutcome(lr, blew_up, bounded, comparison, words)


def _blew_up(cell: Cell) -> bool:
    return cell.mildest_peak > GROWTH


def _growth_claim(cells: Sequence[Cell]) -> Claim:
    question = f"Do unclipped Muon arms pass {GROWTH:g} x tau?"
    references = [cell for cell in cells if _is_reference(cell)]
    if not references:
        return Claim(question, None, "No unclipped Muon arm ran.")
    details = tuple(
        f"{cell.arm} at lr {cell.lr:g}: peak {cell.peak:.2f} x tau"
        for cell in references
        if _blew_up(cell)
    )
    if details:
        lrs = sorted({cell.lr for cell in references if _blew_up(cell)})
        return Claim(question, True, f"Yes, in every seed, at {_rates(lrs)}.", details)
    return Claim(question, False, f"At no rate in every seed; {_largest_peak(references)}.")


def _largest_peak(references: Sequence[Cell]) -> str:
    measured = [cell for cell in references if not math.isnan(cell.peak)]
    if not measured:
        return "no max logit was recorded"
    top = max(measured, key=lambda cell: cell.peak)
    return f"the largest peak is {top.peak:.2f} x tau, {top.arm} at lr {top.lr:g}"


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
    question = f"Is {arm}'s held-out loss as good as every unclipped Muon arm's at the same rate?"
    compared = [(f"lr {one.lr:g}", one.comparison) for one in outcomes]
    return _comparison_claim(question, compared)


def _first_arm_claim(arm: str, runs: Sequence[RunResult]) -> Claim:
    """What sweeps without an unclipped Muon arm compare: each arm with the first."""
    first = results.arms(runs)[0]
    question = f"Is {arm}'s held-out loss as good as {first}'s at the same rate?"
    return _comparison_claim(
        question,
        [
            (
                f"lr {lr:g}",
                pairs.compare(
                    results.select(runs, arm=arm, lr=lr), results.select(runs, arm=first, lr=lr)
                ),
            )
            for lr in results.lrs(runs)
        ],
    )


def _own_rate_claims(runs: Sequence[RunResult], clipped: Sequence[str]) -> list[Claim]:
    found = own_rates.best(runs)
    claims = [_bracket_claim(found)]
    for one in found:
        others = [other for other in found if other.arm not in clipped]
        if one.arm not in clipped or not others:
            continue
        claims.append(
            _comparison_claim(
                f"At its own best rate, is {one.arm} as good as every other arm at its own?",
                [("", own_rates.compare_best(runs, one, other)) for other in others],
            )
        )
        claims.append(
            _comparison_claim(
                f"At about {own_rates.STRESS_MULTIPLE:g} times its own best rate, does {one.arm} "
                "lose no more than the other arms at theirs?",
                [("", own_rates.compare_rise(runs, one, other)) for other in others],
            )
        )
    return [*claims, *_equal_loss_claims(runs, found)]


def _bracket_claim(found: Sequence[own_rates.Best]) -> Claim:
    question = "Did every arm run below and above its own best rate?"
    open_ended = [one.arm for one in found if not one.is_bracketed]
    answer = f"Not {_listed(open_ended)}." if open_ended else "Yes."
    return Claim(question, not open_ended, answer, tuple(one.words for one in found))


def _equal_loss_claims(runs: Sequence[RunResult], found: Sequence[own_rates.Best]) -> list[Claim]:
    """Does Muon's growth of logits exceed AdamW's once both have lost equally much?"""
    is_reference = {run.arm: _is_reference(run) for run in runs}
    is_muon = {run.arm: run.is_muon for run in runs}
    claims = []
    for other in (one for one in found if not is_muon[one.arm]):
        details, signs, num_seeds = [], set(), math.inf
        for one in (one for one in found if is_reference[one.arm]):
            compared = own_rates.logits_at_equal_rise(runs, one, other)
            if compared is None:
                details.append(f"{one.arm}: {other.arm} nowhere loses as much")
                continue
            rise, ratios = compared
            signs |= {ratio > 1 for ratio in ratios}
            num_seeds = min(num_seeds, len(ratios))
            details.append(
                f"{one.arm}, {rise:.2f} bits per byte above its best: "
                f"{', '.join(f'{ratio:.2f}' for ratio in ratios)} times {other.arm}'s, by seed"
            )
        question = f"At equal loss, do unclipped Muon's logits grow more than {other.arm}'s?"
        answer = {frozenset({True}): "Yes, in every seed.", frozenset({False}): "No, in no seed."}
        is_clear = len(signs) == 1 and num_seeds >= statistics.MIN_SEEDS
        holds = signs == {True} if is_clear else None
        words = answer.get(frozenset(signs), "Not resolved." if signs else "Not measured.")
        claims.append(Claim(question, holds, words, tuple(details)))
    return claims


def _comparison_claim(question: str, compared: Sequence[tuple[str, Comparison]]) -> Claim:
    """Whether nothing is worse, as far as the seeds tell; `compared` names each comparison."""
    details = tuple(
        f"{name}: {words}" if name else words for name, one in compared for words in one.words
    )
    found = {
        outcome: [name for name, one in compared if one.outcome == outcome]
        for outcome in ("better", "equal", "not resolved", "worse")
    }
    parts = [
        f"{outcome} at {_listed(names)}" if all(names) else outcome
        for outcome, names in found.items()
        if names
    ]
    if not parts:
        return Claim(question, None, "Not measured.", details)
    answer = f"{'; '.join(parts)}."
    holds = False if found["worse"] else (None if found["not resolved"] else True)
    num_seeds = min(one.num_seeds for _, one in compared if one.outcome != "not measured")
    if num_seeds < statistics.MIN_SEEDS:
        holds = None
        answer += (
            f" This says what happened in {_seeds(num_seeds)}; what training does takes "
            f"{statistics.MIN_SEEDS} or more (seeds={statistics.MIN_SEEDS})."
        )
    return Claim(question, holds, answer[0].upper() + answer[1:], details)


def _seeds(number: int) -> str:
    return "one seed" if number == 1 else f"{number} seeds"


def _divergence_claim(cells: Sequence[Cell]) -> Claim:
    question = "Which arms diverged (NaN, infinity, or a loss well above its start)?"
    details = tuple(
        f"{cell.arm} at lr {cell.lr:g}: {cell.status}" for cell in cells if cell.diverged
    )
    arms = dict.fromkeys(cell.arm for cell in cells if cell.diverged)
    return Claim(question, None, f"{_listed(list(arms))}." if arms else "None.", details)


def _headline(cells: Sequence[Cell], outcomes: dict[str, tuple[RateOutcome, ...]]) -> str:
    references = [cell for cell in cells if _is_reference(cell)]
    if not outcomes:
        return "No arm applies QK-Clip, so this sweep says nothing about it."
    if not references:
        return f"No unclipped Muon arm ran, so {_listed(list(outcomes))} cannot be judged."
    if not any(_blew_up(cell) for cell in references):
        sentences = [
            f"Nothing blew up: no unclipped Muon arm passes {GROWTH:g} x tau in every seed at any "
            f"rate ({_largest_peak(references)}), so this sweep cannot show what QK-Clip is for."
        ]
        for arm, rates in outcomes.items():
            broken = [one.lr for one in rates if one.bounded is False]
            if broken:
                sentences.append(f"{arm} itself left its bounds at {_rates(broken)}.")
        return " ".join(sentences)
    sentences = [_arm_headline(arm, rates) for arm, rates in outcomes.items()]
    num_seeds = min(cell.num_seeds for cell in cells)
    if num_seeds < statistics.MIN_SEEDS:
        sentences.append(f"This is what {_seeds(num_seeds)} did.")
    return " ".join(sentences)


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


def _rates(lrs: Sequence[float]) -> str:
    return f"lr {_numbers(lrs)}"


def _numbers(lrs: Sequence[float]) -> str:
    return _listed([f"{lr:g}" for lr in lrs])


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
