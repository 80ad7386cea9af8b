"""The chance that one of k answers is right, from n >= k answers to each problem.

    pass@k = mean over problems of  1 - C(n - c, k) / C(n, k)        c of n answers are right

Unbiased for each problem (arXiv:2107.03374, eq. 1). Letters: N problems.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from kanana_jax.config import ConfigError


class Share(NamedTuple):
    """A mean over problems, and the standard error from sampling them; NaN for a single one."""

    value: float
    stderr: float


def pass_at_k(num_right_N: Sequence[int], num_answers: int, k: int) -> Share:
    """pass@k of problems with `num_answers` answers each. ConfigError if these are fewer than k."""
    if not 1 <= k <= num_answers:
        raise ConfigError(
            f"pass@{k} needs {k} answers or more to each problem, and one at least, got "
            f"{num_answers}; sample more or lower k"
        )
    if not len(num_right_N) or not all(0 <= c <= num_answers for c in num_right_N):
        raise ConfigError(
            f"expected of each problem how many of its {num_answers} answers are right, got "
            f"{list(num_right_N)[:8]}"
        )
    all_sets = math.comb(num_answers, k)
    return mean([1.0 - math.comb(num_answers - c, k) / all_sets for c in num_right_N])


def mean(values_N: Sequence[float]) -> Share:
    """The mean of numbers, one for each problem."""
    values = np.asarray(values_N, np.float64)
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Share(float(values.mean()), float(error))


def named(found: Mapping[str, Share]) -> dict[str, float]:
    """Each share under its name, and its error under the name with _stderr."""
    values = {name: share.value for name, share in found.items()}
    return values | {f"{name}_stderr": share.stderr for name, share in found.items()}
