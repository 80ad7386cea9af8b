"""Log-probabilities, or scalars, of sequences that were made during training.

Rows have the shape of training's batches, so that one compiled function serves all of them.
Letters: B sequences, S positions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from kanana_jax.batch import Batch
from kanana_jax.jobs import segment_rows
from kanana_jax.rollouts.store import Segment

Score = Callable[[Batch], Any]  # (B, S) of a batch that is on the devices


def of_targets(
    segments: Sequence[Segment],
    score: Score,
    place: Callable[[Batch], Batch],
    batch_size: int,
    seq_len: int,
) -> list[np.ndarray]:
    """For every segment of n ids, the n - 1 numbers of its targets, ids 1 to n - 1.

    `score` may also give arrays (B, S, ...).
    """
    found = []
    for start in range(0, len(segments), batch_size):
        part = segments[start : start + batch_size]
        batch = place(segment_rows.batch_of(part, batch_size, seq_len))
        numbers_BS = np.asarray(jax.device_get(score(batch)))
        found += [row_S[: len(one.ids) - 1] for row_S, one in zip(numbers_BS, part, strict=False)]
    return found
