"""Which implementation of an op runs: the first in a table that can, or the one that is named.

A table maps names to kernels in order of preference. A kernel has `why_not(problem)`, which
returns None or the reason why the problem is beyond it; the last kernels take every problem.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

type Implementation = Literal["auto", "reference", "xla", "mosaic_gpu", "mosaic_tpu"]


class Choice(NamedTuple):
    """The implementation that "auto" takes, and why each other one cannot run."""

    implementation: str
    reasons: dict[str, str]


def choose(kernels: Mapping[str, Any], problem) -> Choice:
    """Says what "auto" takes for a problem."""
    reasons = {name: kernel.why_not(problem) for name, kernel in kernels.items()}
    able = [name for name, reason in reasons.items() if reason is None]
    return Choice(able[0], {name: reason for name, reason in reasons.items() if reason})


def select(kernels: Mapping[str, Any], problem, implementation: Implementation) -> str:
    """Returns the name to run.

    Raises ValueError on an unknown name, NotImplementedError when the named kernel cannot run.
    """
    if implementation == "auto":
        return choose(kernels, problem).implementation
    if implementation not in kernels:
        raise ValueError(
            f"implementation must be 'auto' or one of {sorted(kernels)}, got {implementation!r}."
        )
    reason = kernels[implementation].why_not(problem)
    if reason is not None:
        raise NotImplementedError(
            f"implementation={implementation!r} cannot run here: {reason}; "
            f"'auto' would take {choose(kernels, problem).implementation!r}."
        )
    return implementation


def always(problem) -> None:
    """The `why_not` of a kernel that takes every problem."""
