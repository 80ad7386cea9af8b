"""Policy-gradient losses written once more: numpy float64, rollout by rollout, without gradients.

`live` are the log-probabilities that a gradient moves and `held` the same numbers where it does
not, so that a difference quotient in `live` is the gradient of a loss with parts that are held.
Letters: B sequences, S positions.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from kanana_jax.batch import Batch

S = 14
# Segments of each row as runs of positions: . is not a target, x is one.
ROWS = (
    ("..xxx..xx", ".xxxx"),  # three turns in two rollouts, full
    ("...xxxx", ".xxx"),  # stored data
    ("....", ".xxxxx"),  # a segment without targets
    ("xxxxxxxxxxxxxx",),
    ("..xx",),  # stored data
    (".x", ".x", ".x", ".xx"),
    (),
    ("..x.x.x.xx", ".xx"),
)
STORED = (1, 4)
DRAWN_ROWS = tuple(b for b in range(len(ROWS)) if b not in STORED)


class Rollout(NamedTuple):
    """Its drawn tokens."""

    live: np.ndarray
    held: np.ndarray
    base: np.ndarray  # what the ratio compares with
    old: np.ndarray
    sampler: np.ndarray
    reference: np.ndarray
    advantage: np.ndarray


def batch_of(rows=ROWS, stored=STORED, fill: float = np.nan) -> tuple[Batch, np.ndarray]:
    """Rollouts and stored rows, and log-probabilities. Columns have `fill` where none is drawn."""
    rng = np.random.default_rng(0)
    shape = (len(rows), S)
    segments, mask = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    for b, row in enumerate(rows):
        whole = "".join(row)
        segments[b, : len(whole)] = np.repeat(np.arange(1, len(row) + 1), [*map(len, row)])
        mask[b, : len(whole)] = [one == "x" for one in whole]
    of_segment = rng.normal(size=(len(rows), S + 1))
    logp = -rng.exponential(1.5, shape)
    old = logp + rng.normal(0, 0.3, shape)
    column = {
        "advantage": np.take_along_axis(of_segment, segments, axis=1),
        "old": old,
        "sampler": old + rng.normal(0, 0.3, shape),
        "reference": logp + rng.normal(0, 0.5, shape),
    }
    is_stored = np.isin(np.arange(len(rows)), stored)[:, None] & np.ones(shape, bool)
    is_drawn = (mask > 0) & ~is_stored
    extra = {name: np.float32(np.where(is_drawn, x, fill)) for name, x in column.items()}
    extra["stored"] = np.float32(is_stored)
    tokens = np.zeros(shape, np.int32)
    return Batch(tokens, tokens, tokens, segments, mask, mask, extra=extra), np.float32(logp)


def drawn_runs(batch: Batch) -> Iterator[tuple[int, np.ndarray]]:
    """The row of every rollout and where its drawn tokens are."""
    is_drawn = (batch.loss_mask > 0) & (batch.extra["stored"] == 0)
    for b, segments in enumerate(batch.segment_ids):
        for number in range(1, segments.max(initial=0) + 1):
            places = np.flatnonzero((segments == number) & is_drawn[b])
            if places.size:
                yield b, places


def rollouts_of(live_BS, held_BS, batch: Batch, base: str) -> list[Rollout]:
    column = {name: np.float64(x) for name, x in batch.extra.items()}
    names = (base, "old", "sampler", "reference", "advantage")
    return [
        Rollout(*(x[b, at] for x in (live_BS, held_BS, *(column[name] for name in names))))
        for b, at in drawn_runs(batch)
    ]


def clipped(x: Rollout, log_ratio, low, high, dual=None) -> np.ndarray:
    ratio = np.exp(log_ratio)
    bounded = np.minimum(np.maximum(ratio, 1 - low), 1 + high)
    loss = np.maximum(-ratio * x.advantage, -bounded * x.advantage)
    if dual is None:
        return loss
    return np.where(x.advantage < 0, np.minimum(loss, -dual * x.advantage), loss)


def squared(x: Rollout, tau: float) -> np.ndarray:
    """Of equal value everywhere; each token moves its own log-ratio only, as corrections need."""
    held = (x.held - x.base).sum()
    own = (x.advantage - tau * (held + x.live - x.held)) ** 2 / (2 * tau)
    still = (x.advantage - tau * held) ** 2 / (2 * tau)
    return own - still + still / x.live.size


def squared_token(x: Rollout, kappa: float, trust: float) -> np.ndarray:
    moved = np.exp(x.held) - np.exp(x.sampler)
    is_far = ((x.advantage > 0) & (moved > trust)) | ((x.advantage < 0) & (moved < -trust))
    log_ratio = x.live - x.base
    return np.where(is_far, 0, -x.advantage * np.exp(log_ratio)) + kappa * log_ratio**2


SURROGATES: dict[str, Callable[..., np.ndarray]] = {
    "Reinforce": lambda x: -x.advantage * x.live,
    "Clipped": lambda x, **p: clipped(x, x.live - x.base, **p),
    "SequenceClipped": lambda x, **p: clipped(x, (x.held - x.base).mean() + x.live - x.held, **p),
    "Cispo": lambda x, low, high: (
        -np.minimum(np.maximum(np.exp(x.held - x.base), low), high) * x.advantage * x.live
    ),
    "Squared": squared,
    "SquaredToken": squared_token,
}


def masked_mean(x: Rollout, low, high, mean) -> np.ndarray:
    log_rho = x.old - x.sampler
    m = np.exp(log_rho).mean() if mean == "arithmetic" else np.exp(log_rho.mean())
    return np.full(x.old.size, 1.0 if low <= m <= high else 0.0)


CORRECTIONS: dict[str, Callable[..., np.ndarray]] = {
    "none": lambda x: np.ones(x.old.size),
    "Truncated": lambda x, cap: np.minimum(np.exp(x.old - x.sampler), cap),
    "Masked": lambda x, low, high: np.array(
        [rho if low <= rho <= high else 0.0 for rho in np.exp(x.old - x.sampler)]
    ),
    "SequenceMask": masked_mean,
}


def k3(x: Rollout) -> np.ndarray:
    return np.exp(x.reference - x.live) - 1 + x.live - x.reference


DIVERGENCES: dict[str, Callable[[Rollout], np.ndarray]] = {
    "none": lambda x: np.zeros(x.live.size),
    "loss_k2": lambda x: (x.live - x.reference) ** 2 / 2,
    "loss_k3": k3,
    "loss_rk3": lambda x: np.exp(x.live - x.base) * k3(x),
}


def of_object(made: Any) -> tuple[str, dict[str, Any]]:
    """The name of a dataclass and its settings."""
    return ("none", {}) if made is None else (type(made).__name__, vars(made))


def loss(objective: Any, live_BS, held_BS, batch: Batch) -> float:
    """Of a PolicyGradient, whose settings alone are read."""
    found = rollouts_of(live_BS, held_BS, batch, objective.ratio_to)
    surrogate, settings = of_object(objective.surrogate)
    correction, bounds = of_object(objective.correction)
    sums = []
    for x in found:
        l_t = CORRECTIONS[correction](x, **bounds) * SURROGATES[surrogate](x, **settings)
        sums.append((l_t + objective.kl_weight * DIVERGENCES[objective.kl](x)).sum())
    lengths = [x.live.size for x in found]
    if objective.aggregation == "token":
        total = sum(sums) / sum(lengths)
    elif objective.aggregation == "sequence":
        total = np.mean([one / length for one, length in zip(sums, lengths, strict=True)])
    else:
        total = sum(sums) / objective.constant_length / len(found)
    targets = (batch.loss_mask > 0) & (batch.extra["stored"] > 0)
    return total + objective.ptx_weight * -live_BS[targets].mean()


def slopes(fn: Callable[[np.ndarray], float], at_BS: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """d fn / d every number, by central differences."""
    found = np.zeros(at_BS.shape)
    for place in np.ndindex(*at_BS.shape):
        up, down = at_BS.copy(), at_BS.copy()
        up[place] += step
        down[place] -= step
        found[place] = (fn(up) - fn(down)) / (2 * step)
    return found
