"""Log-probabilities, or scalars, of sequences that were made during training.

Rows have the shape of training's batches, so that one compiled function does for all of them.
Letters: B sequences, S positions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from kanana_jax.batch import Batch
from kanana_jax.rollouts.store import Segment

Score = Callable[[Batch], Any]  # (B, S) of a batch that is on the devices


def of_targets(
    segments: Sequence[Segment],
    score: Score,
    place: Callable[[Batch], Batch],
    batch_size: int,
    seq_len: int,
) -> list[Float[np.ndarray, "S"]]:
    """Of every segment of n ids the n - 1 numbers of its targets, ids 1 to n - 1."""
    found = []
    for start in range(0, len(segments), batch_size):
        part = segments[start : start + batch_size]
        batch = place(_batch(part, batch_size, seq_len))
        numbers_BS = np.asarray(jax.device_get(score(batch)))
        found += [row_S[: len(one.ids) - 1] for row_S, one in zip(numbers_BS, part, strict=False)]
    return found


def _batch(segments: Sequence[Segment], batch_size: int, seq_len: int) -> Batch:
    """One segment a row; the rows that are left are padding."""
    tokens = np.zeros((batch_size, seq_len + 1), np.int32)
    is_token = np.zeros((batch_size, seq_len), np.int32)
    for row, one in enumerate(segments):
        tokens[row, : len(one.ids)] = one.ids
        is_token[row, : len(one.ids) - 1] = 1
    made = Batch.of_tokens(tokens)
    mask = is_token.astype(np.float32)
    return made._replace(segment_ids=is_token, loss_mask=mask, target_bytes=mask)
