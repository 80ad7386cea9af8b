"""Losses by kind of norm and by decay of its gains, and two controls.

Each arm is judged at its own best rate, paired by seed and held-out sequence.

    folded     held-out bits per byte with gains folded into the matrices after them, less those
               without: the same function, so at most EXACT in every run
    dropped    the same with gains left out: a control of the control, which must move the loss
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from kanana_jax.report import claims, pairs, results, tables
from kanana_jax.report.claims import Claim
from kanana_jax.report.pairs import Best
from kanana_jax.report.results import Run

DECAYED, KEPT, INPUT = "plain, all decay", "plain, none decays", "plain, inputs decay"
CENTRED, SCALAR, NONE = "1 + gamma, all decay", "one number, decays", "no gain"
CLASSES = ("input", "post_attention", "q_latent", "kv_latent", "final")
EXACT = 1e-5  # bits per byte; float32 rounds

_QUESTIONS = (
    ("Is a decay of all gains better than none?", DECAYED, KEPT),
    ("Is a decay of the gains of inputs alone better than none?", INPUT, KEPT),
    ("Is a decay to 1 better than a decay to 0?", CENTRED, DECAYED),
    ("Is a number for each entry better than one for all?", DECAYED, SCALAR),
    ("Is a gain better than none?", DECAYED, NONE),
)


def judge(runs: Sequence[Run]) -> tuple[str, list[Claim]]:
    """The headline and the claims, whatever came out."""
    best = {one.arm: one for one in pairs.best(runs)}
    asked = [_better(runs, best, *question) for question in _QUESTIONS]
    found = [
        *asked,
        claims.best_places(list(best.values()), "rate"),
        _folded(runs),
        _dropped(runs),
        *(_sizes(runs, best, name) for name in CLASSES),
        _outputs(runs, best),
        claims.divergence(tables.summarize(runs)),
    ]
    return _headline(asked[:2]), found


def _headline(decays: Sequence[Claim]) -> str:
    if any(one.holds for one in decays):
        return "Weight decay of gains lowers the loss here."
    if all(one.holds is False for one in decays):
        return "Weight decay of gains lowers no loss here."
    return "These runs do not tell whether gains should decay."


def _better(
    runs: Sequence[Run], best: Mapping[str, Best], question: str, arm: str, other: str
) -> Claim:
    if arm not in best or other not in best:
        return Claim(question, None, "Not measured.", ("an arm did not run, or diverged",))
    return claims.better(question, pairs.compare_best(runs, best[arm], best[other]))


def _last(run: Run, key: str) -> float:
    values_N = run.series(key).values_N
    return float(values_N[-1]) if values_N.size else math.nan


def _changes(runs: Sequence[Run], key: str) -> np.ndarray:
    changes = [_last(run, key) - run.value("heldout_bpb") for run in runs if not run.diverged]
    return np.abs([change for change in changes if math.isfinite(change)])


def _folded(runs: Sequence[Run]) -> Claim:
    question = "Do gains taken into the matrices behind them leave the loss as it is?"
    changes_N = _changes(runs, "heldout_folded")
    if not changes_N.size:
        return Claim(question, None, "Not measured.")
    answer = f"It moves by {changes_N.max():.1e} bits per byte at most, in {len(changes_N)} runs."
    return Claim(question, bool(changes_N.max() <= EXACT), answer)


def _dropped(runs: Sequence[Run]) -> Claim:
    question = "Do gains left out move it?"
    changes_N = _changes(runs, "heldout_dropped")
    if not changes_N.size:
        return Claim(question, None, "Not measured.")
    answer = f"By {changes_N.min():.1e} to {changes_N.max():.1e} bits per byte."
    return Claim(question, bool(changes_N.min() > EXACT), answer)


def _sizes(runs: Sequence[Run], best: Mapping[str, Best], name: str) -> Claim:
    words = name.replace("_", " ")
    return _figures(
        runs,
        best,
        f"How large do gains of {words} norms get, and how unlike?",
        "The largest, and standard deviation over mean, at each arm's best rate.",
        {"largest": f"gain_max_{name}", "spread": f"gain_spread_{name}"},
    )


def _outputs(runs: Sequence[Run], best: Mapping[str, Best]) -> Claim:
    return _figures(
        runs,
        best,
        "How outlying are the outputs of norms?",
        "Excess kurtosis, and the relative error of FP8 with a scale for 128 numbers.",
        {
            f"{what} of {name}": f"{key}_{name}"
            for name in ("input", "final")
            for what, key in (("kurtosis", "kurtosis"), ("FP8 error", "fp8_error"))
        },
    )


def _figures(
    runs: Sequence[Run],
    best: Mapping[str, Best],
    question: str,
    answer: str,
    keys: Mapping[str, str],
) -> Claim:
    """Means over seeds at each arm's best place; nothing is judged by them."""
    details = []
    for arm in results.arms(runs):
        here = pairs.at_best(runs, best[arm]) if arm in best else []
        means = {
            words: np.mean([_last(run, key) for run in here]) for words, key in keys.items() if here
        }
        shown = [f"{words} {mean:.3f}" for words, mean in means.items() if math.isfinite(mean)]
        if shown:
            details.append(f"{arm}: {', '.join(shown)}")
    return Claim(question, None, answer if details else "Not measured.", tuple(details))
