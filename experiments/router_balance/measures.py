"""How even a run's loads were, and how even chance alone would leave them.

    MaxVio of a run   mean over its last third of steps, of all layers or of the worst at a step

    floor             T tokens choose K of E experts at random, all alike: with q = K / E a load has
                      the variance T q (1 - q), and all loads add up to T K, so about

        MaxVio = sqrt((1 - q) / (q T) E / (E - 1)) max_e (z_e - mean z),       z normal

No bias gets below the floor, in the mean over batches that it has not seen. Tokens of one text
resemble each other, so that real loads vary more.

Letters: N steps, L layers, E experts, R random draws.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from kanana_jax.report.results import Run

_DRAWS = 20_000  # the mean of MaxVio to about 0.2 %


class MaxVio(NamedTuple):
    """MaxVio in the mean of all layers, and of the worst layer at each step."""

    mean: float
    worst: float


def max_vio(run: Run) -> MaxVio:
    """Over the last third of a run's steps; NaN where it recorded none."""
    values_NL = run.series("max_vio_layers").values_N
    if not len(values_NL):
        return MaxVio(math.nan, math.nan)
    last_NL = values_NL[-math.ceil(len(values_NL) / 3) :]
    return MaxVio(float(last_NL.mean()), float(last_NL.max(axis=1).mean()))


def floor(run: Run) -> MaxVio:
    """MaxVio of uniformly random choices by as many tokens as a step of the run has."""
    model, data = run.config["model"], run.config["data"]
    return chance(
        data["batch_size"] * data["seq_len"],
        model["num_experts"],
        model["num_experts_per_token"],
        model["num_layers"] - model["num_dense_layers"],
    )


@functools.cache
def chance(num_tokens: int, num_experts: int, top_k: int, num_layers: int) -> MaxVio:
    share = top_k / num_experts
    spread = math.sqrt((1 - share) / (share * num_tokens) * num_experts / max(num_experts - 1, 1))
    z_RLE = np.random.default_rng(0).standard_normal((_DRAWS, num_layers, num_experts))
    max_vio_RL = spread * (z_RLE.max(axis=-1) - z_RLE.mean(axis=-1))
    return MaxVio(float(max_vio_RL.mean()), float(max_vio_RL.max(axis=1).mean()))


def is_quantile(run: Run) -> bool:
    return run.config["train"]["router_balance"] == "quantile"


def is_sign(run: Run) -> bool:
    """The sign rule; with a rate of 0 nothing moves, and the run is a control."""
    return not is_quantile(run) and run.config["train"]["router_bias_rate"] > 0
