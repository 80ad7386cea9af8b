"""The evaluator that every job with text has: bits per byte of held-out sequences."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int64

from kanana_jax import model
from kanana_jax.batch import Batch
from kanana_jax.report import statistics
from kanana_jax.train import fit, step_functions


class Sources(NamedTuple):
    """The source of each held-out sequence."""

    names: tuple[str, ...]  # as in data.paths
    source_S: Int64[np.ndarray, "S"]  # without the sequences of padding at the end

    @property
    def labels(self) -> list[str]:
        return labels(self.names)


def labels(names: Sequence[str]) -> list[str]:
    """What sources are called in metrics: `names`, as in data.paths, without folder and ending.

    Numbered where two would be the same.
    """
    stems = [PurePath(name).name.partition(".")[0] or name for name in names]
    count = Counter(stems)
    return [
        stem if count[stem] == 1 else f"{stem}_{number}"
        for number, stem in enumerate(stems, start=1)
    ]


def bits_per_byte(
    placed: Sequence[Batch], every: int, built: Any, sources: Sources | None = None
) -> fit.Evaluator:
    """Measured on batches that are on the devices, every so many steps.

    With two `sources` or more, also for each source.
    """
    steps: step_functions.Steps = built.steps

    def measure(weights: model.Weights) -> Mapping[str, Any]:
        per_batch = jax.device_get([steps.evaluate(weights, batch) for batch in placed])
        return summarize(per_batch, sources)

    return fit.Evaluator("heldout_bpb", every, measure)


def summarize(
    per_batch: Sequence[tuple[np.ndarray, np.ndarray]], sources: Sources | None = None
) -> dict[str, Any]:
    """Bits per byte over the held-out text, with the standard error of sampling its sequences.

    Also the nats and bytes of every sequence, without those that fill up the last batch. The same
    for each source, under its label.
    """
    nats, num_bytes = (np.concatenate(x).astype(np.float64) for x in zip(*per_batch, strict=True))
    whole = statistics.Heldout(nats, num_bytes)
    heldout = _kept(whole, num_bytes > 0)
    found = _summary("heldout_bpb", heldout)
    if sources is not None and len(sources.names) > 1:
        for index, label in enumerate(sources.labels):
            is_of_source = np.zeros(len(nats), bool)
            is_of_source[: len(sources.source_S)] = sources.source_S == index
            part = _kept(whole, is_of_source & (num_bytes > 0))
            if len(part.nats_S):
                found |= _summary(f"heldout_bpb_{label}", part) | _sequences(part, f"_{label}")
    return found | _sequences(heldout)


def _kept(heldout: statistics.Heldout, is_kept_S: np.ndarray) -> statistics.Heldout:
    return statistics.Heldout(heldout.nats_S[is_kept_S], heldout.bytes_S[is_kept_S])


def _sequences(heldout: statistics.Heldout, suffix: str = "") -> dict[str, np.ndarray]:
    return {f"heldout_nats{suffix}": heldout.nats_S, f"heldout_bytes{suffix}": heldout.bytes_S}


def _summary(name: str, heldout: statistics.Heldout) -> dict[str, float]:
    bpb, stderr = statistics.bits_per_byte(heldout)
    return {name: bpb, f"{name}_stderr": stderr}
