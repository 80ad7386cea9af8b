"""TIES: adds to a base what several models learned from it separately (arXiv:2306.01708, sec. 4).

    tau_i = trim(W_i - W)        only the share `density` of largest magnitude is kept
    sign  = sgn(sum_i w_i tau_i)
    M     = W + the weighted mean of those tau_i that are not 0 and have that sign

The paper trims all weights of a model together; here each array is trimmed by itself, so that a
model can be read one layer at a time. The paper keeps a fifth.
"""

from collections.abc import Sequence

import numpy as np

DENSITY = 0.2


def ties(
    base: np.ndarray, trained: Sequence[np.ndarray], weights: Sequence[float], density: float
) -> np.ndarray:
    """The merged array in float32; `weights` are those of the trained ones."""
    start = base.astype(np.float32)
    changes = [trimmed(one.astype(np.float32) - start, density) for one in trained]
    numbers = [np.float32(one) for one in weights]
    sign = np.sign(sum(w * one for w, one in zip(numbers, changes, strict=True)))
    total, weight = np.zeros_like(start), np.zeros_like(start)
    for number, change in zip(numbers, changes, strict=True):
        agrees = (np.sign(change) == sign) & (sign != 0)
        total += np.where(agrees, number * change, 0)
        weight += np.where(agrees, number, 0)
    return start + total / np.maximum(weight, np.finfo(np.float32).tiny)


def trimmed(change: np.ndarray, density: float) -> np.ndarray:
    """`change` where it is in the share `density` of largest magnitude, and 0 elsewhere."""
    count = max(1, round(density * change.size))
    if count >= change.size:
        return change
    size = np.abs(change).ravel()
    least = np.partition(size, -count)[-count]
    return np.where(np.abs(change) >= least, change, 0)
