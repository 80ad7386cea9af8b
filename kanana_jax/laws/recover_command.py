"""What 64 runs can tell about a multilingual law, by fits to losses that a known one made."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kanana_jax.laws import recovery
from kanana_jax.laws.errors import LawError


def add(commands: Any) -> None:
    """Adds `recover` to the commands of `python -m kanana_jax.laws`."""
    parser = commands.add_parser("recover", help=__doc__, description=recovery.__doc__)
    parser.add_argument("--noise", default="0.003,0.01", help="standard deviations of ln loss")
    parser.add_argument("--draws", type=int, default=10, help="of the noise, at each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for recover.json and recover.png")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    try:
        sigmas = tuple(float(one) for one in arguments.noise.split(","))
    except ValueError:
        sigmas = ()
    if not sigmas or min(sigmas) <= 0 or max(sigmas) > 0.2 or arguments.draws < 2:
        raise LawError(
            "--noise must be numbers in (0, 0.2] between commas and --draws 2 or more, got "
            f"{arguments.noise} and {arguments.draws}"
        )
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
    found = []
    for one in recovery.recover(sigmas, arguments.draws, arguments.seed):
        print(text(one), flush=True)
        found.append(one)
    if arguments.out is not None:
        from kanana_jax.laws import pictures

        record = as_json(found, arguments.draws)
        (arguments.out / "recover.json").write_text(json.dumps(record, indent=2) + "\n")
        pictures.recovery(found, arguments.out / "recover.png")


def text(one: recovery.Recovered) -> str:
    """A table of one size of noise."""
    num_draws = len(one.found["E"])
    lines = [
        f"noise {one.sigma:g} of ln loss, {num_draws} draws, {one.num_unconverged} not converged",
        f"{'':>10} {'truth':>9} {'mean':>9} {'sd':>9}",
    ]
    for name, found_D in one.found.items():
        numbers = recovery.TRUTH[name], found_D.mean(), found_D.std(ddof=1)
        lines.append(f"{name:>10} " + " ".join(f"{number:>9.4g}" for number in numbers))
    return "\n".join(lines) + "\n"


def as_json(found: Sequence[recovery.Recovered], num_draws: int) -> dict[str, Any]:
    return {
        "truth": dict(recovery.TRUTH.values),
        "num_points": len(recovery.points()),
        "num_draws": num_draws,
        "noise": [
            {
                "sigma": one.sigma,
                "num_unconverged": one.num_unconverged,
                "found": {name: values.tolist() for name, values in one.found.items()},
            }
            for one in found
        ],
    }
