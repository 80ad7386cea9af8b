"""Whether a law that knows languages predicts what it has not seen better than one that does not.

    atlas         L = E + A N^-alpha + B D_eff^-beta: repeated tokens count less, those of other
                  languages by a weight (arXiv:2510.22037)
    chinchilla    the same with all tokens alike
    error         root mean square of ln L, observed less predicted, over the points left out: the
                  mixture HELD_MIX, and all runs of the largest model

A weight helps where its 95 % interval (wild bootstrap over runs) lies above 0, and does harm where
it lies below. The report also says what runs with this noise can tell (laws.power).
"""

from collections.abc import Sequence

import numpy as np

from experiments.atlas import table
from kanana_jax.laws import design, fitting, forms, intervals, power
from kanana_jax.laws.errors import LawError
from kanana_jax.report import claims, tables
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

HELD_MIX = "even"
_AGREE = 1e-3


def judge(runs: Sequence[Run]) -> tuple[str, list[Claim]]:
    """The headline and the claims, whatever came out."""
    form = forms.atlas(table.NUM_SOURCES)
    try:
        data = table.read(runs)
        design.check(form, data.points, [data.state])
        found = fitting.fit(form, data.points, data.loss_P)
        direct = fitting.fit(form, data.points, data.loss_P, method="direct")
        bands = intervals.of_fit(found, data.points, runs_P=data.run_P)
    except LawError as error:
        return "No law can be fitted to these runs.", [
            Claim("Do these runs tell the parameters apart?", False, str(error))
        ]
    better = [
        _predicts(data, form, data.mix_P == HELD_MIX, f"mixture {HELD_MIX!r}"),
        _predicts(data, form, data.size_P == data.size_P.max(), "largest model"),
    ]
    words = {
        True: "The law that knows languages predicts held-out runs better.",
        False: "The law that knows languages does not predict all held-out runs better.",
        None: "These runs do not tell which law predicts held-out runs better.",
    }
    return words[claims.all_hold(better)], [
        *better,
        *_weights(runs, found, bands),
        _agreement(found, direct),
        _parameters(found, bands),
        _power(found, data),
        claims.divergence(tables.summarize(runs)),
    ]


def _predicts(data: table.Table, form: forms.Form, is_out_P: np.ndarray, what: str) -> Claim:
    """Fits both laws to the runs of each seed separately."""
    question = f"Is atlas' error on the {what} below that of a law without languages?"
    errors: dict[str, dict[int, float]] = {"atlas": {}, "chinchilla": {}}
    for seed in np.unique(data.seed_P):
        of_seed = data.seed_P == seed
        seen, out = data.part(of_seed & ~is_out_P), data.part(of_seed & is_out_P)
        if not len(out.loss_P):
            return Claim(question, None, "Not measured.")
        for one in (form, forms.CHINCHILLA):
            try:
                law = fitting.fit(one, seen.points, seen.loss_P).law
            except LawError as error:
                return Claim(question, None, "Not measured.", (str(error),))
            gap_P = np.log(out.loss_P) - np.log(law.loss(out.points))
            errors[one.name][int(seed)] = float(np.sqrt(np.mean(gap_P**2)))
    return claims.lower(question, errors["atlas"], errors["chinchilla"], digits=4)


def _weights(runs: Sequence[Run], found: fitting.Fit, bands: intervals.Intervals) -> list[Claim]:
    target, *texts = table.labels(runs)
    own, others = texts[: table.NUM_SOURCES], texts[table.NUM_SOURCES :]
    made = []
    weights = [f"tau_{number}" for number, _ in enumerate(own, start=1)]
    for label, name in zip([*own, claims.listed(others)], [*weights, "tau_other"], strict=True):
        band = bands.bands[name]
        holds = True if band.low > 0 else False if band.high < 0 else None
        answer = (
            f"A token counts as {found.law[name]:.3f} (95 %: {band.low:.3f} to {band.high:.3f})."
        )
        made.append(Claim(f"Does text of {label} help {target}?", holds, answer))
    return made


def _agreement(found: fitting.Fit, direct: fitting.Fit) -> Claim:
    apart = {
        name: abs(found.law[name] - direct.law[name]) / max(abs(found.law[name]), 0.01)
        for name in found.law.values
    }
    worst = max(apart, key=apart.__getitem__)
    answer = f"To {apart[worst]:.1e}, {worst} being furthest apart."
    ended = tuple(one.message for one in (found, direct) if not one.is_converged)
    return Claim("Do both searches find one law?", apart[worst] <= _AGREE, answer, ended)


def _parameters(found: fitting.Fit, bands: intervals.Intervals) -> Claim:
    details = tuple(
        f"{name}: {value:.4g} (95 %: {bands.bands[name].low:.4g} to {bands.bands[name].high:.4g})"
        for name, value in found.law.values.items()
    )
    return Claim("Which law is it?", None, "Fitted to all points.", details)


def _power(found: fitting.Fit, data: table.Table) -> Claim:
    """Takes all readings as independent, which readings along a run are not."""
    question = "What could this design tell?"
    sigma = float(np.std(found.residual_P))
    try:
        errors = power.parameter_errors(found.law, data.points, sigma)
    except LawError as error:
        return Claim(question, None, str(error))
    details = tuple(f"{name}: standard deviation {error:.3g}" for name, error in errors.items())
    answer = f"With the noise of its residuals, {sigma:.2%} of ln loss, and no luck in common."
    return Claim(question, None, answer, details)
