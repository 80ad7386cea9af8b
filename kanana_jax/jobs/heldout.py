"""The evaluator that every job with text has: bits per byte of held-out sequences."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from kanana_jax import model
from kanana_jax.batch import Batch
from kanana_jax.report import statistics
from kanana_jax.train import fit
from kanana_jax.train import step as step_lib


def bits_per_byte(
    batches: Sequence[Batch], batch_size: int, every: int, built: Any
) -> fit.Evaluator:
    """Over `batches`, this process's rows of each; measured every so many steps."""
    steps: step_lib.Steps = built.steps
    placed = [built.place(batch, batch_size) for batch in batches]

    def measure(weights: model.Weights) -> Mapping[str, Any]:
        return summarize(jax.device_get([steps.evaluate(weights, batch) for batch in placed]))

    return fit.Evaluator("heldout_bpb", every, measure)


def summarize(per_batch: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Bits per byte over the held-out text, with the standard error of sampling its sequences.

    Beside them the nats and bytes of every sequence, without those that fill up the last batch.
    """
    nats, num_bytes = (np.concatenate(x).astype(np.float64) for x in zip(*per_batch, strict=True))
    heldout = statistics.Heldout(nats[num_bytes > 0], num_bytes[num_bytes > 0])
    bpb, stderr = statistics.bits_per_byte(heldout)
    return {
        "heldout_bpb": bpb,
        "heldout_bpb_stderr": stderr,
        "heldout_nats": heldout.nats_S,
        "heldout_bytes": heldout.bytes_S,
    }
