"""Writes problems to learn from: python -m kanana_jax.rollouts.tasks --out=FILE.jsonl [...].

    --family=chain_sum,equation --language=en,ko --count=20000 --traces=0.15 --seed=0

A line of the file is {"text": ...}, a problem with its answer; --traces is the share of problems
with a trace between the two. --heldout takes problems to measure on; none is among the others.
Prints what was written, and how often the most frequent answer is right. Exit code 2: a setting
cannot be used, or the file cannot be written.
"""

import argparse
from dataclasses import dataclass
from typing import Annotated

from kanana_jax import errors
from kanana_jax.config import ConfigError, fields, paths
from kanana_jax.config.ranges import Count, Range, Seed
from kanana_jax.data import jsonl
from kanana_jax.rollouts import tasks

_PROGRAM = "kanana_jax.rollouts.tasks"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The problems of a file."""

    family: tuple[str, ...] = tuple(tasks.FAMILIES)
    language: tuple[tasks.Language, ...] = tasks.LANGUAGES
    count: Count = 10_000
    traces: Annotated[float, Range(0.0, 1.0, "a share")] = 1.0
    seed: Seed = 0
    sizes: tuple[Annotated[int, Range(1, 20, "longer ones are no short strings")], ...] = ()
    heldout: bool = False

    def __post_init__(self):
        fields.check(self, "")
        unknown = [name for name in self.family if name not in tasks.FAMILIES]
        if unknown or not self.family or not self.language:
            raise ConfigError(
                f"expected families among {', '.join(tasks.FAMILIES)} and languages among "
                f"{', '.join(tasks.LANGUAGES)}, one or more of each, got {self.family} and "
                f"{self.language}"
            )


def main(argv: list[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    with errors.reported(_PROGRAM):
        path = paths.local(arguments.out, "--out")
        given = {name: value for name, value in vars(arguments).items() if name != "out"}
        wanted = Wanted(**given)
        drawn = tasks.mixed(
            [tasks.FAMILIES[name] for name in wanted.family],
            wanted.language,
            seed=wanted.seed,
            count=wanted.count,
            heldout=wanted.heldout,
            sizes=wanted.sizes,
        )
        num_bytes = jsonl.write(path, tasks.documents(drawn, wanted.traces, wanted.seed))
    print(f"{path}: {len(drawn):,} documents, {num_bytes:,} bytes of text")
    for name in wanted.family:
        of_family = [one for one in drawn if one.family.name == name]
        if of_family:
            print(
                f"{name}: {len(of_family):,} problems; the most frequent answer is right in "
                f"{tasks.constant_accuracy(of_family):.1%}"
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {_PROGRAM}", allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    names = ", ".join(tasks.FAMILIES)
    parser.add_argument("--out", required=True, help="a file ending in .jsonl")
    parser.add_argument("--family", type=_names, help=f"of {names}; default: all")
    parser.add_argument("--language", type=_names, help="default: en,ko")
    parser.add_argument("--count", type=int, help=f"problems in all; default {Wanted.count}")
    parser.add_argument("--traces", type=float, help="share with a trace; default 1")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--sizes", type=_sizes, help="steps of a problem; default: the family's")
    parser.add_argument("--heldout", action="store_true", help="problems to measure on")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(one) for one in text.split(","))


if __name__ == "__main__":
    main()
