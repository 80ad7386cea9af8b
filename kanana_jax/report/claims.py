"""Questions about a comparison of arms, answered from its runs as far as their seeds tell."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kanana_jax.report import pairs, results, statistics
from kanana_jax.report.pairs import Best, Comparison
from kanana_jax.report.results import Run
from kanana_jax.report.tables import Cell


@dataclass(frozen=True)
class Claim:
    """A question about the runs; `holds` is None where there is nothing to judge."""

    question: str
    holds: bool | None
    answer: str
    details: tuple[str, ...] = ()


def text(headline: str, claims: Sequence[Claim]) -> str:
    """What was found, for a terminal."""
    marks = {True: "yes", False: "no", None: "-"}
    lines = [headline, ""]
    for claim in claims:
        lines.append(f"[{marks[claim.holds]:>3}] {claim.question}")
        lines.append(f"      {claim.answer}")
        lines += [f"        {detail}" for detail in claim.details]
    return "\n".join(lines) + "\n"


def counted(claims: Sequence[Claim]) -> str:
    """A headline that says how many hold."""
    num_held = sum(claim.holds is True for claim in claims)
    num_against = sum(claim.holds is False for claim in claims)
    return f"Of {len(claims)} questions {num_held} are answered by yes, {num_against} by no."


def against_first(runs: Sequence[Run], noun: str) -> list[Claim]:
    """Each arm against the first, at every place; `noun` is what places differ in."""
    first, *others = results.arms(runs)
    where = f" at the same {noun}" if noun else ""
    return [
        compared(
            f"Is {arm}'s held-out loss as good as {first}'s{where}?",
            [
                (
                    results.place_words(place),
                    pairs.compare(
                        results.select(runs, arm=arm, place=place),
                        results.select(runs, arm=first, place=place),
                    ),
                )
                for place in results.places(runs)
            ],
        )
        for arm in others
    ]


def best_places(found: Sequence[Best], noun: str) -> Claim:
    """Where each arm is best, and whether its sweep shows that."""
    details = tuple(one.words for one in found)
    if not any(one.is_bracketed is not None for one in found):
        answer = f"{'; '.join(details)}." if details else "None finished."
        return Claim(f"Which {noun} is best for each arm?", None, answer)
    question = f"Did every arm run below and above its own best {noun}?"
    open_ended = [one.arm or "the only arm" for one in found if one.is_bracketed is False]
    answer = f"Not {listed(open_ended)}." if open_ended else "Yes."
    return Claim(question, not open_ended, answer, details)


def best_against_first(runs: Sequence[Run], found: Sequence[Best], noun: str) -> list[Claim]:
    """Each arm at its own best place against the first at its own."""
    first = results.arms(runs)[0]
    return [
        compared(
            f"At its own best {noun}, is {one.arm} as good as {first} at its own?",
            [("", pairs.compare_best(runs, one, other))],
        )
        for other in found
        if other.arm == first
        for one in found
        if one.arm != first
    ]


def compared(question: str, comparisons: Sequence[tuple[str, Comparison]]) -> Claim:
    """Whether nothing is worse, as far as the seeds tell; each comparison comes with its name."""
    details = tuple(
        f"{name}: {words}" if name else words for name, one in comparisons for words in one.words
    )
    found = {
        outcome: [name for name, one in comparisons if one.outcome == outcome]
        for outcome in ("better", "equal", "not resolved", "worse")
    }
    parts = [
        f"{outcome} at {listed([_closed(name) for name in names])}" if all(names) else outcome
        for outcome, names in found.items()
        if names
    ]
    if not parts:
        return Claim(question, None, "Not measured.", details)
    answer = f"{'; '.join(parts)}."
    holds = False if found["worse"] else (None if found["not resolved"] else True)
    num_seeds = min(one.num_seeds for _, one in comparisons if one.outcome != "not measured")
    if num_seeds < statistics.MIN_SEEDS:
        holds = None
        answer += (
            f" This says what happened in {seeds(num_seeds)}; what training does takes "
            f"{statistics.MIN_SEEDS} or more (seeds={statistics.MIN_SEEDS})."
        )
    return Claim(question, holds, answer[0].upper() + answer[1:], details)


def better(question: str, one: Comparison) -> Claim:
    """Whether something is better, as far as the seeds tell; equally good is not enough."""
    if one.outcome == "not measured":
        return Claim(question, None, "Not measured.", one.words)
    answer = f"{one.outcome}.".capitalize()
    holds = {"better": True, "equal": False, "worse": False}.get(one.outcome)
    if one.num_seeds < statistics.MIN_SEEDS:
        holds = None
        answer += f" This says what happened in {seeds(one.num_seeds)}."
    return Claim(question, holds, answer, one.words)


def rises(
    question: str, now: Mapping[int, float], was: Mapping[int, float], least: float = 0.0
) -> Claim:
    """Whether a number rises by more than `least`, seed by seed; both are by seed."""
    seeds_K = sorted(now.keys() & was.keys())
    pairs_K = [(now[seed], was[seed]) for seed in seeds_K]
    pairs_K = [pair for pair in pairs_K if all(map(math.isfinite, pair))]
    details = tuple(f"{before:.3f} before, {after:.3f} after" for after, before in pairs_K)
    if not pairs_K:
        return Claim(question, None, "Not measured.")
    if len(pairs_K) < 2:
        return Claim(question, None, "One seed; no band.", details)
    now_K, was_K = (np.array(one) for one in zip(*pairs_K, strict=True))
    found = statistics.difference_of_seeds(now_K, was_K)
    verb = "rises" if found.value >= 0 else "falls"
    answer = f"It {verb} by {abs(found.value):.3f} +- {found.band:.3f}."
    return Claim(question, _exceeds(found, least), answer, details)


def lower(
    question: str, one: Mapping[int, float], other: Mapping[int, float], digits: int = 3
) -> Claim:
    """Whether a number of one arm is below that of another, seed by seed; both are by seed."""
    seeds_K = sorted(one.keys() & other.keys())
    pairs_K = [(one[seed], other[seed]) for seed in seeds_K]
    pairs_K = [pair for pair in pairs_K if all(map(math.isfinite, pair))]
    if not pairs_K:
        return Claim(question, None, "Not measured.")
    means = [sum(column) / len(pairs_K) for column in zip(*pairs_K, strict=True)]
    numbers = f"{means[0]:.{digits}f} against {means[1]:.{digits}f}"
    if len(pairs_K) < 2:
        return Claim(question, None, f"{numbers}, in one seed; no band.")
    one_K, other_K = (np.array(column) for column in zip(*pairs_K, strict=True))
    found = statistics.difference_of_seeds(one_K, other_K)
    is_above = _exceeds(found, 0.0)
    band = f"{found.value:+.{digits}f} +- {found.band:.{digits}f} in {seeds(found.num_seeds)}"
    return Claim(question, None if is_above is None else not is_above, f"{numbers}: {band}.")


def above(question: str, values: Mapping[int, float], least: float, noun: str = "It") -> Claim:
    """Whether a number, by seed, is above `least`; `noun` is what the answer calls it."""
    value_K = np.array([one for one in values.values() if math.isfinite(one)])
    details = tuple(f"{one:.3f}" for one in value_K)
    if not details:
        return Claim(question, None, "Not measured.")
    if len(value_K) < 2:
        return Claim(question, None, "One seed; no band.", details)
    found = statistics.difference_of_seeds(value_K, np.zeros(len(value_K)))
    answer = f"{noun} is {found.value:.3f} +- {found.band:.3f}."
    return Claim(question, _exceeds(found, least), answer, details)


def all_hold(found: Sequence[Claim]) -> bool | None:
    """Whether all claims hold: False where one does not, None where one is undecided."""
    told = [one.holds for one in found]
    return False if False in told else None if None in told else True


def _exceeds(found: statistics.Difference, least: float) -> bool | None:
    """Whether a difference is above `least`; None where its band or its seeds do not tell."""
    if found.num_seeds < statistics.MIN_SEEDS or abs(found.value - least) <= found.band:
        return None
    return found.value > least


def _closed(name: str) -> str:
    """A name for a list, in parentheses where it has commas of its own."""
    return f"({name})" if "," in name else name


def divergence(cells: Sequence[Cell]) -> Claim:
    question = "Which arms diverged (NaN, infinity, or a loss well above its start)?"
    dead = [cell for cell in cells if cell.diverged]
    details = tuple(f"{cell.words}: {cell.status}" for cell in dead)
    arms = list(dict.fromkeys(cell.arm or cell.words for cell in dead))
    return Claim(question, None, f"{listed(arms)}." if arms else "None.", details)


def few_seeds(cells: Sequence[Cell]) -> str:
    """A sentence for the headline where there are too few seeds for more."""
    num_seeds = min(cell.num_seeds for cell in cells)
    return f"This is what {seeds(num_seeds)} did." if num_seeds < statistics.MIN_SEEDS else ""


def seeds(number: int) -> str:
    return "one seed" if number == 1 else f"{number} seeds"


def listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
