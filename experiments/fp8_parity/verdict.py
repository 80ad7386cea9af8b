"""Whether FP8 costs loss: each arm against the one without it, and Muon's cost against AdamW's.

    equal    an arm's held-out loss less that of the same optimizer without FP8, paired by seed and
             sequence (report.statistics): the whole band within MARGIN_NATS per byte and within
             MARGIN_SHARE of the loss

A band that leaves the margin decides nothing if it contains 0, and neither do fewer than three
seeds. DeepSeek-V3 reports 0.25 % of the loss (arXiv:2412.19437, sec. 3.3).
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from kanana_jax.jobs import curves
from kanana_jax.report import claims, comparison, pairs, results, statistics, tables
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

FULL, FP8 = "no FP8", "FP8"
ADAMW_FULL, ADAMW_FP8 = "AdamW, no FP8", "AdamW, FP8"
MARGIN_NATS, MARGIN_SHARE = 0.01, 0.0025


def write(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
    return comparison.write(runs, about, path, curves=curves.TRAINING, verdict=judge(runs))


def judge(runs: Sequence[Run]) -> tuple[str, list[Claim]]:
    """The headline and the claims, whatever came out."""
    if results.place_axes(runs):
        cells = tables.summarize(runs)
        return comparison.headline(cells), comparison.judge(runs, cells)
    names = results.arms(runs)
    gaps = {arm: _equal(runs, arm, base) for arm in names if (base := _base(arm)) not in (arm, "")}
    found = [*gaps.values(), _cheaper_with_muon(runs), _logits(runs)]
    found.append(claims.divergence(tables.summarize(runs)))
    return _headline(gaps), found


def _base(arm: str) -> str:
    """The arm of the same optimizer without FP8."""
    return ADAMW_FULL if arm in (ADAMW_FULL, ADAMW_FP8) else FULL


def _headline(gaps: Mapping[str, Claim]) -> str:
    words = {
        True: "FP8 costs no loss that these runs could see beyond the margin",
        False: "FP8 costs loss",
        None: "These runs do not tell whether FP8 costs loss",
    }
    if FP8 not in gaps:
        return "The arm of FP8 did not run beside the one without, so it cannot be judged."
    return f"{words[gaps[FP8].holds]}: {gaps[FP8].details[0]}."


def _equal(runs: Sequence[Run], arm: str, base: str) -> Claim:
    question = f"Is the held-out loss of {arm} that of {base}?"
    ours, others = results.select(runs, arm=arm), results.select(runs, arm=base)
    if not ours or not others or any(run.diverged for run in (*ours, *others)):
        return Claim(question, None, "Not measured.", ("an arm did not run, or diverged",))
    try:
        gap = statistics.difference(pairs.by_seed(ours), pairs.by_seed(others))
    except statistics.UnpairedError as error:
        return Claim(question, None, "Not measured.", (str(error),))
    loss = sum(run.value("heldout_bpb") for run in others) / len(others)
    margin = min(MARGIN_NATS / math.log(2), MARGIN_SHARE * loss)
    outcome = gap.outcome(margin)
    holds = {"equal": True, "better": True, "worse": False}.get(outcome)
    answer = f"{outcome}, by a margin of {margin:.4f} bits per byte.".capitalize()
    if gap.num_seeds < statistics.MIN_SEEDS:
        holds = None
        answer += f" This says what happened in {claims.seeds(gap.num_seeds)}."
    words = f"{gap.value:+.4f} +- {gap.band:.4f} bits per byte, {gap.value / loss:+.2%} of the loss"
    return Claim(question, holds, answer, (words, f"detects {gap.smallest_seen:.4f}"))


def _cheaper_with_muon(runs: Sequence[Run]) -> Claim:
    """The difference of two gaps, paired by seed and sequence as each is."""
    question = "Does FP8 cost MuonClip less than AdamW?"
    arms = (FP8, FULL, ADAMW_FULL, ADAMW_FP8)  # (FP8 - FULL) - (ADAMW_FP8 - ADAMW_FULL)
    cells = [results.select(runs, arm=arm) for arm in arms]
    if not all(cells) or any(run.diverged for cell in cells for run in cell):
        return Claim(question, None, "Not measured.")
    signs = (1.0, -1.0, 1.0, -1.0)
    try:
        losses = [pairs.by_seed(cell) for cell in cells]
        found = statistics.contrast(list(zip(signs, losses, strict=True)))
    except statistics.UnpairedError as error:
        return Claim(question, None, "Not measured.", (str(error),))
    outcome = found.outcome(0.0)
    holds = {"better": True, "worse": False}.get(outcome)
    if found.num_seeds < statistics.MIN_SEEDS:
        holds = None
    words = {"better": "Yes", "worse": "No, more"}.get(outcome, "Not resolved")
    band = f"{found.value:+.4f} +- {found.band:.4f} bits per byte"
    return Claim(question, holds, f"{words}, in {claims.seeds(found.num_seeds)}.", (band,))


def _logits(runs: Sequence[Run]) -> Claim:
    """Figures to read next to the loss; nothing is judged by them."""
    details = tuple(
        f"{cell.words}: peak {max(map(curves.peak_max_logit, cell.runs)):.1f}, clip events "
        f"{curves.mean_clip_events(cell):.0f}"
        for cell in tables.summarize(runs)
    )
    return Claim("How large do attention logits get?", None, "The worst seed's peak.", details)
