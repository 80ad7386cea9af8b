"""How far each rule moves the best rate, in octaves per doubling of the width."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from kanana_jax.laws import bootstrap, width_axis
from kanana_jax.laws.errors import LawError
from kanana_jax.report import claims, results, statistics
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

RATE = "optimizer.lr"
MOST_OCTAVES = 0.15  # of a rule that keeps the rate
MOST_EXCESS = 0.005  # of the loss at the widest, at the narrowest's best rate


def name(rule: str, width: int) -> str:
    """The name of a rule's arm at a width."""
    return f"{rule}, width {width}"


def sweeps(runs: Sequence[Run]) -> dict[str, dict[float, width_axis.Losses]]:
    """By rule and width, the final losses of the runs that did not diverge."""
    found: dict[str, dict[float, width_axis.Losses]] = {}
    for arm in results.arms(runs):
        rule, _, width = arm.partition(", width ")
        losses = [
            (run.axis(RATE), run.value("heldout_bpb"))
            for run in results.select(runs, arm=arm)
            if not run.diverged and math.isfinite(run.value("heldout_bpb"))
        ]
        rate_R, loss_R = (
            (np.array(values) for values in zip(*losses, strict=True))
            if losses
            else (
                np.zeros(0),
                np.zeros(0),
            )
        )
        found.setdefault(rule, {})[float(width)] = width_axis.Losses(rate_R, loss_R)
    return found


def shifts(runs: Sequence[Run]) -> dict[str, width_axis.Shift | LawError]:
    """The shift of every rule, or the error that prevents it."""
    found: dict[str, width_axis.Shift | LawError] = {}
    for rule, of_rule in sweeps(runs).items():
        try:
            found[rule] = width_axis.shift(of_rule)
        except LawError as error:
            found[rule] = error
    return found


def judge(runs: Sequence[Run]) -> tuple[str, list[Claim]]:
    """The headline and the claims, whatever came out."""
    found = shifts(runs)
    told = {rule: one for rule, one in found.items() if isinstance(one, width_axis.Shift)}
    judged = [_keeps(rule, one) for rule, one in found.items()]
    judged += [
        _less(told["kakao"], told[rule], rule)
        for rule in told
        if rule != "kakao" and "kakao" in told
    ]
    judged += [_cost(rule, one) for rule, one in told.items()]
    num_seeds = len({run.seed for run in runs})
    if num_seeds < statistics.MIN_SEEDS:
        judged = [dataclasses.replace(one, holds=None) for one in judged]
        return f"This is what {claims.seeds(num_seeds)} did; no rule is judged by it.", judged
    kept = [rule for rule, claim in zip(found, judged, strict=False) if claim.holds]
    words = (
        f"Rates carry over by {claims.listed(kept)}."
        if kept
        else ("No rule is shown to keep the best rate over these widths.")
    )
    return words, judged


def _keeps(rule: str, one: width_axis.Shift | LawError) -> Claim:
    question = f"Does the rule {rule} keep the best rate?"
    if isinstance(one, LawError):
        return Claim(question, None, "Not measured.", (str(one),))
    pairs = zip(one.width_W, one.rate_W, one.is_bracketed_W, strict=True)
    details = tuple(
        f"width {width:g}: best rate {rate:.4g}{'' if inside else ', outside of the sweep'}"
        for width, rate, inside in pairs
    )
    answer = f"It moves by {_octaves(one.octaves, one.band)} per doubling of the width."
    if not one.is_bracketed:
        return Claim(question, None, f"{answer} Some best rate lies outside of the sweep.", details)
    return Claim(question, _within(one.band, MOST_OCTAVES), answer, details)


def _less(kakao: width_axis.Shift, other: width_axis.Shift, rule: str) -> Claim:
    """Whether Kakao's rate moves less, whichever way; draws of both are independent."""
    question = f"Does the best rate move less by kakao than by {rule}?"
    band = bootstrap.band(np.abs(kakao.octaves_D) - np.abs(other.octaves_D))
    value = abs(kakao.octaves) - abs(other.octaves)
    holds = True if band.high < 0 else False if band.low > 0 else None
    if not (kakao.is_bracketed and other.is_bracketed):
        holds = None
    return Claim(question, holds, f"By {_octaves(value, band)}.")


def _cost(rule: str, one: width_axis.Shift) -> Claim:
    question = f"By {rule}, is the narrowest's best rate as good as the widest's own?"
    if not one.is_bracketed:
        return Claim(question, None, "Some best rate lies outside of the sweep.")
    answer = f"It costs {one.excess:.2%} of the loss."
    return Claim(question, one.excess <= MOST_EXCESS, answer)


def _octaves(value: float, band: bootstrap.Band) -> str:
    return f"{value:+.2f} octaves (95 %: {band.low:+.2f} to {band.high:+.2f})"


def _within(band: bootstrap.Band, most: float) -> bool | None:
    """None where the band lies partly within `most`, or is NaN."""
    if -most <= band.low and band.high <= most:
        return True
    return False if band.low > most or band.high < -most else None
