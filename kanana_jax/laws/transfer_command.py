"""The learning rate of a target budget, as text, JSON and a picture."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from kanana_jax.laws import proxies, token_axis
from kanana_jax.laws.errors import LawError


def add(commands: Any) -> None:
    """Adds `transfer` to the commands of `python -m kanana_jax.laws`."""
    parser = commands.add_parser(
        "transfer",
        help="the learning rate of more tokens, from runs at constant rates",
        description=proxies.__doc__,
    )
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, or one csv")
    parser.add_argument("--tokens", required=True, type=float, help="budget of the target run")
    parser.add_argument("--arm", help="of a comparison")
    parser.add_argument("--metric", default=proxies.AVERAGED, help="which loss of run folders")
    parser.add_argument(
        "--from-tokens",
        type=float,
        default=0.0,
        help="smaller budgets are not fitted: those before the batch or the warm-up settled",
    )
    parser.add_argument("--draws", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--out", type=Path, help="folder for transfer.json and transfer.png")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    if not arguments.tokens > 0 or arguments.draws < 2:
        raise LawError(
            f"--tokens must be positive and --draws 2 or more, got {arguments.tokens:g} and "
            f"{arguments.draws}"
        )
    points, notes = proxies.load(arguments.runs, arm=arguments.arm, metric=arguments.metric)
    points = points.at(points.tokens_T >= arguments.from_tokens)
    found = token_axis.optima(points)
    answer = token_axis.extrapolate(points, arguments.tokens, num_draws=arguments.draws)
    try:
        held_out = token_axis.hold_out(found)
    except LawError as error:
        held_out = None
        notes.append(f"nothing is held out: {error}")
    print(text(found, answer, held_out, notes))
    if arguments.out is not None:
        from kanana_jax.laws import pictures

        arguments.out.mkdir(parents=True, exist_ok=True)
        record = as_json(found, answer, held_out, notes)
        (arguments.out / "transfer.json").write_text(json.dumps(record, indent=2) + "\n")
        pictures.transfer(points, found, answer, arguments.out / "transfer.png")


def text(
    found: token_axis.Optima,
    answer: token_axis.Extrapolation,
    held_out: token_axis.HeldOut | None,
    notes: list[str],
) -> str:
    """What a terminal shows."""
    lines = [f"{'tokens':>12} {'best rate':>12}"]
    for tokens, rate, inside in zip(
        found.tokens_T, found.rate_T, found.is_bracketed_T, strict=True
    ):
        where = "" if inside else "  outside the sweep, not fitted"
        lines.append(f"{tokens:>12.4g} {rate:>12.4g}{where}")
    line, band, beta = answer.law, answer.rate_band, answer.beta_band
    lines += [
        "",
        f"ln rate* = {line.slope:.4f} ln tokens + {line.intercept:.4f}   R2 {line.r2:.3f}",
        f"exponent {line.slope:.3f} ({_interval(beta)})",
        f"rate at {answer.tokens:.4g} tokens: {answer.rate:.4g} ({_interval(band)})",
    ]
    beyond = answer.tokens / found.tokens_T[-1]
    if beyond > 1:
        lines.append(f"{beyond:.3g} times the largest budget; that the law goes on is assumed")
    if held_out is not None:
        lines.append(
            f"held out: {len(held_out.tokens_T)} budgets, mean error {held_out.mean_error:.1%}, "
            f"largest {held_out.errors_T.max():.1%}"
        )
    return "\n".join([*lines, *(f"note: {one}" for one in notes)])


def _interval(band: Any) -> str:
    if np.isnan(band.low):
        return "no band: three runs leave no residual"
    return f"95 %: {band.low:.4g} to {band.high:.4g}"


def as_json(
    found: token_axis.Optima,
    answer: token_axis.Extrapolation,
    held_out: token_axis.HeldOut | None,
    notes: list[str],
) -> dict[str, Any]:
    """The same as numbers; a best rate or a band that does not exist is null."""

    def numbers(values: Any) -> list[float | None]:
        return [float(one) if np.isfinite(one) else None for one in values]

    return {
        "budgets": {
            "tokens": numbers(found.tokens_T),
            "rate": numbers(found.rate_T),
            "is_bracketed": found.is_bracketed_T.tolist(),
        },
        "law": {"beta": answer.law.slope, "gamma": answer.law.intercept, "r2": answer.law.r2},
        "beta_band": numbers(answer.beta_band),
        "target": {"tokens": answer.tokens, "rate": answer.rate},
        "rate_band": numbers(answer.rate_band),
        "held_out": held_out
        and {
            "tokens": numbers(held_out.tokens_T),
            "predicted": numbers(held_out.predicted_T),
            "actual": numbers(held_out.actual_T),
            "mean_error": held_out.mean_error,
        },
        "notes": notes,
    }
