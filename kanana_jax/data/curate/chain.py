"""The stages by name, and how the flags make them."""

import argparse
from collections.abc import Callable, Mapping

from kanana_jax.config import ConfigError
from kanana_jax.data.curate import (
    decontaminate,
    duplicates,
    education,
    heuristics,
    language,
    normalise,
    perplexity,
)
from kanana_jax.data.curate.stage import Stage

Make = Callable[[argparse.Namespace], Stage]


def _decontaminate(arguments: argparse.Namespace) -> Stage:
    if not arguments.against:
        raise ConfigError(
            "--stages has decontaminate, which needs --against=FILE of texts; give it"
        )
    return decontaminate.stage(arguments.against, arguments.against_field)


def _perplexity(arguments: argparse.Namespace) -> Stage:
    if not arguments.model:
        raise ConfigError("--stages has perplexity, which needs --model=FOLDER; give it")
    return perplexity.stage(arguments.model, arguments.hardest)


def _education(arguments: argparse.Namespace) -> Stage:
    if not arguments.labels:
        raise ConfigError("--stages has education, which needs --labels=FILE.jsonl; give it")
    return education.stage(arguments.labels, arguments.least_label, arguments.model)


_TABLE: Mapping[str, Make] = {
    "normalise": lambda arguments: normalise.stage(),
    "language": lambda arguments: language.stage(
        [one for one in arguments.languages.split(",") if one], arguments.min_confidence
    ),
    "heuristics": lambda arguments: heuristics.stage(arguments.most_dropped),
    "exact": lambda arguments: duplicates.exact(),
    "minhash": lambda arguments: duplicates.near(arguments.similarity),
    "decontaminate": _decontaminate,
    "perplexity": _perplexity,
    "education": _education,
}
# Flags that no other stage reads.
_USERS = {
    "against": ("decontaminate",),
    "model": ("perplexity", "education"),
    "labels": ("education",),
}
NAMES = tuple(_TABLE)
DEFAULT = ("normalise", "language", "heuristics", "exact", "minhash")


def of(arguments: argparse.Namespace) -> list[Stage]:
    """The stages that --stages names, in its order. ConfigError for an unknown or repeated name."""
    wanted = [one.strip() for one in arguments.stages.split(",") if one.strip()]
    unknown = [one for one in wanted if one not in _TABLE]
    if unknown or not wanted or len(set(wanted)) < len(wanted):
        raise ConfigError(
            f"--stages must be of {','.join(NAMES)}, each at most once, got {arguments.stages!r}"
        )
    for flag, users in _USERS.items():
        if getattr(arguments, flag) and not set(users) & set(wanted):
            raise ConfigError(
                f"--{flag} is of the stage {' or '.join(users)}, got --stages={arguments.stages}; "
                "add that stage, or leave the flag out"
            )
    return [_TABLE[name](arguments) for name in wanted]
