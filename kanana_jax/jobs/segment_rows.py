"""Batches with one segment a row; the rows left over are padding.

A column of a segment has a number for every id. Its place in a batch is where the id is the target.
Letters: B rows, S positions, L MoE layers, K experts of a token.
"""

from collections.abc import Sequence

import numpy as np

from kanana_jax.batch import Batch
from kanana_jax.data.chat import Origin
from kanana_jax.rollouts.store import Segment

LIVE = -1  # a route that the router chooses


def batch_of(segments: Sequence[Segment], num_rows: int, seq_len: int) -> Batch:
    """All ids of the segments are targets; no segment is longer than `seq_len` + 1.

    Columns and routes are those that the first segment has.
    """
    tokens = np.zeros((num_rows, seq_len + 1), np.int32)
    is_token = np.zeros((num_rows, seq_len), np.int32)
    names = list(segments[0].columns) if segments else []
    extra = {name: np.zeros((num_rows, seq_len), np.float32) for name in names}
    for row, one in enumerate(segments):
        num_targets = len(one.ids) - 1
        tokens[row, : num_targets + 1] = one.ids
        is_token[row, :num_targets] = 1
        for name in names:
            extra[name][row, :num_targets] = one.columns[name][1:]
    made = Batch.of_tokens(tokens)
    mask = is_token.astype(np.float32)
    return made._replace(
        segment_ids=is_token,
        loss_mask=mask,
        target_bytes=mask,
        extra=extra,
        routes=_routes(segments, num_rows, seq_len),
    )


def only_drawn(batch: Batch, segments: Sequence[Segment]) -> Batch:
    """`batch_of` the segments, with a loss that counts what the model drew."""
    mask = np.zeros_like(batch.loss_mask)
    for row, one in enumerate(segments):
        mask[row, : len(one.ids) - 1] = np.asarray(one.origins[1:]) == Origin.MODEL
    return batch._replace(loss_mask=mask, target_bytes=mask)


def _routes(segments: Sequence[Segment], num_rows: int, seq_len: int) -> np.ndarray | None:
    if not segments or segments[0].routes is None:
        return None
    shape = segments[0].routes.shape[1:]
    routes = np.full((num_rows, seq_len, *shape), LIVE, np.int32)
    for row, one in enumerate(segments):
        assert one.routes is not None
        known = one.routes[: len(one.ids) - 1]
        routes[row, : len(known)] = known
    return routes
