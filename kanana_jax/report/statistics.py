"""Differences between runs, with their bands: the statistics of every experiment.

Runs evaluated on the same held-out sequences are compared sequence by sequence, and seed by seed
where both have the same seeds, so that what all of them share cancels. For a contrast
sum_i c_i runs_i let u_ks be seed k's value at sequence s, linearised as for a ratio estimator.
With u_ks = seed + sequence + rest, both crossed and random,

    error^2 = var_k(mean_s u) / K  +  var_s(mean_k u) / S  -  var(rest) / (K S)

and the degrees of freedom are Satterthwaite's (Biometrics Bulletin 2, 1946). One seed leaves only
the second term: such a band says nothing about what another seed would have given.

Letters: K seeds, S sequences.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

COVERAGE = 0.95  # of a band, each by itself: no correction for the number of comparisons
POWER = 0.8
# Fewer seeds say what happened in them, not what training does.
MIN_SEEDS = 3

Outcome = Literal["better", "equal", "worse", "not resolved"]


class Heldout(NamedTuple):
    """A model's loss on every held-out sequence, and the UTF-8 bytes of their targets."""

    nats_S: Float[np.ndarray, "S"]
    bytes_S: Float[np.ndarray, "S"]
    text: str = ""  # names the sequences: only losses on the same ones are compared


BySeed = Mapping[int, Heldout]


class UnpairedError(ValueError):
    """Runs without a seed in common, or evaluated on other sequences."""


@dataclass(frozen=True)
class Difference:
    """By how much the loss of one side exceeds the other's."""

    value: float
    band: float  # half the width of the interval that covers the true value with COVERAGE
    smallest_seen: float  # a true difference of this size is told from 0 with probability POWER
    num_seeds: int
    error: float = math.nan  # the standard error of `value`

    def outcome(self, margin: float) -> Outcome:
        """`equal`: the whole band lies within `margin` of 0, whether or not it holds 0.

        `not resolved`: the band holds 0 and more than the margin.
        """
        if abs(self.value) + self.band < margin:
            return "equal"
        if abs(self.value) > self.band:
            return "better" if self.value < 0 else "worse"
        return "not resolved"


def bits_per_byte(heldout: Heldout) -> tuple[float, float]:
    """Bits per byte over all sequences, and the standard error of having sampled them.

    The error is NaN for fewer than two sequences.
    """
    nats_S, bytes_S, _ = heldout
    bpb = nats_S.sum() / bytes_S.sum() / math.log(2)
    residual_S = nats_S / math.log(2) - bpb * bytes_S  # of the ratio estimator, linearised
    if len(nats_S) < 2:
        return float(bpb), math.nan
    return float(bpb), math.sqrt(len(nats_S) * residual_S.var(ddof=1)) / float(bytes_S.sum())


def difference(one: BySeed, other: BySeed) -> Difference:
    """Bits per byte of `one` less those of `other`, over the seeds that both have."""
    return contrast([(1.0, one), (-1.0, other)])


def difference_of_seeds(
    one_K: Float[np.ndarray, "K"], other_K: Float[np.ndarray, "K"]
) -> Difference:
    """One loss less the other, where all that is known is one number per seed (two or more)."""
    if len(one_K) < 2:
        raise UnpairedError(f"a band over seeds needs two or more, got {len(one_K)}")
    paired_K = one_K - other_K
    return _banded(float(paired_K.mean()), [_part(paired_K)], 0.0, len(paired_K))


def contrast(terms: Sequence[tuple[float, BySeed]]) -> Difference:
    """The sum of coefficient x bits per byte, over the seeds that all terms have.

    Raises UnpairedError when they have none in common, or not the same sequences, or fewer than 2.
    """
    seeds = sorted(set.intersection(*[set(runs) for _, runs in terms]))
    if not seeds:
        raise UnpairedError("they have no seed in common")
    first = terms[0][1][seeds[0]]
    bytes_S = first.bytes_S
    for run in (runs[seed] for _, runs in terms for seed in seeds):
        if run.text != first.text or not np.array_equal(run.bytes_S, bytes_S):
            raise UnpairedError("they were evaluated on different held-out sequences")
    if len(bytes_S) < 2:
        raise UnpairedError(f"a band needs two held-out sequences or more, got {len(bytes_S)}")
    nats_KS = sum(c * np.stack([runs[seed].nats_S for seed in seeds]) for c, runs in terms)
    return _estimate(np.asarray(nats_KS), bytes_S)


def _estimate(nats_KS: np.ndarray, bytes_S: np.ndarray) -> Difference:
    num_seeds, num_sequences = nats_KS.shape
    weight_S = bytes_S * num_sequences / bytes_S.sum()
    value = nats_KS.sum() / (num_seeds * bytes_S.sum() * math.log(2))
    u_KS = nats_KS * (num_sequences / (bytes_S.sum() * math.log(2))) - value * weight_S
    parts, counted_twice = [_part(u_KS.mean(0))], 0.0
    if num_seeds > 1:
        parts.append(_part(u_KS.mean(1)))
        rest_KS = u_KS - u_KS.mean(0) - u_KS.mean(1, keepdims=True) + u_KS.mean()
        freedom = (num_seeds - 1) * (num_sequences - 1)
        counted_twice = float((rest_KS**2).sum()) / freedom / u_KS.size
    return _banded(float(value), parts, counted_twice, num_seeds)


def _banded(
    value: float, parts: Sequence[tuple[float, int]], counted_twice: float, num_seeds: int
) -> Difference:
    """From the variances that add up to that of `value`, each with its degrees of freedom."""
    from scipy import stats

    # An estimate may come out negative; the error is at least that of any source alone.
    largest = max(variance for variance, _ in parts)
    variance = max(sum(variance for variance, _ in parts) - counted_twice, largest)
    spread = sum(part**2 / freedom for part, freedom in parts)
    freedom = variance**2 / spread if spread else math.inf
    sure, seen = (float(stats.t.ppf(level, freedom)) for level in ((1 + COVERAGE) / 2, POWER))
    error = math.sqrt(variance)
    return Difference(value, sure * error, (sure + seen) * error, num_seeds, error)


def _part(means: np.ndarray) -> tuple[float, int]:
    """The variance of a mean of `means`, and its degrees of freedom."""
    return float(means.var(ddof=1)) / len(means), len(means) - 1
