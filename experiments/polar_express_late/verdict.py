"""Noise of the update and held-out loss, at the end of the constant phase and after the decay.

    noise    |U U^T - I|_F / sqrt(M) of the orthogonalised momentum, the mean over all matrices and
             over the measurements of the last third of the constant phase, or of the decay
    loss     held-out bits per byte at the last step of the constant phase (seed by seed), and at
             the end (by seed and sequence), each arm at the rate that is best for it at the end

Whether a gain comes late is a question of its own: does the decay take more off the loss?
"""

import math
from collections.abc import Callable, Sequence

from kanana_jax.report import claims, pairs, tables
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

NEWTON_SCHULZ, POLAR_EXPRESS = "Newton-Schulz, 5 steps", "Polar Express, 5 steps"
LONGER = "Polar Express, 8 steps"


def judge(runs: Sequence[Run]) -> tuple[str, list[Claim]]:
    """The headline and the claims, whatever came out."""
    best = {one.arm: one for one in pairs.best(runs)}
    if NEWTON_SCHULZ not in best or len(best) < 2:
        return "Newton-Schulz and Polar Express did not both run, so neither can be judged.", []
    others = pairs.at_best(runs, best[NEWTON_SCHULZ])
    found = [claims.best_places(list(best.values()), "rate")]
    headline = []
    for arm in (one for one in (POLAR_EXPRESS, LONGER) if one in best):
        ours = pairs.at_best(runs, best[arm])
        noise = _lower(f"Is the update of {arm} less noisy late?", noise_late, ours, others)
        after = claims.better(
            f"Is the loss of {arm} better after the decay?",
            pairs.compare_best(runs, best[arm], best[NEWTON_SCHULZ]),
        )
        found += [
            noise,
            _lower(f"Is the update of {arm} less noisy in the decay?", in_decay, ours, others),
            _lower(f"Is the loss of {arm} lower before the decay?", before_decay, ours, others),
            after,
            _lower(f"Does the decay take more off the loss of {arm}?", change, ours, others),
        ]
        headline.append(_sentence(arm, noise, after))
    return " ".join(headline), [*found, claims.divergence(tables.summarize(runs))]


def _sentence(arm: str, noise: Claim, loss: Claim) -> str:
    words = {True: "yes", False: "no", None: "not decided"}
    return (
        f"{arm} against {NEWTON_SCHULZ}: less noise late, {words[noise.holds]}; a lower loss after "
        f"the decay, {words[loss.holds]}."
    )


def _lower(
    question: str, value: Callable[[Run], float], ours: Sequence[Run], others: Sequence[Run]
) -> Claim:
    one, other = ({run.seed: value(run) for run in runs} for runs in (ours, others))
    return claims.lower(question, one, other, digits=4)


def _last_constant_step(run: Run) -> int:
    return run.steps - run.config["optimizer"]["schedule"]["decay_steps"]


def _mean_noise(run: Run, after: float, until: float) -> float:
    steps_N, error_N = run.series("orthogonality_error")
    is_in_N = (steps_N > after) & (steps_N <= until)
    return float(error_N[is_in_N].mean()) if is_in_N.any() else math.nan


def noise_late(run: Run) -> float:
    last = _last_constant_step(run)
    return _mean_noise(run, last * 2 / 3, last)


def in_decay(run: Run) -> float:
    return _mean_noise(run, _last_constant_step(run), run.steps)


def before_decay(run: Run) -> float:
    """Held-out bits per byte at the last constant step; NaN where it was not measured there."""
    steps_N, bpb_N = run.series("heldout_bpb")
    found_N = bpb_N[steps_N == _last_constant_step(run)]
    return float(found_N[0]) if found_N.size else math.nan


def change(run: Run) -> float:
    """The change of the loss by the decay, below 0 where the loss fell."""
    return run.value("heldout_bpb") - before_decay(run)
