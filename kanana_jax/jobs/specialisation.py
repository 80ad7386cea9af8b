"""The evaluator of how the choice of experts depends on the source of tokens.

    p_de = load of expert e from source d / load of all experts from d
    J(p_1 .. p_D) = H(mean_d p_d) - mean_d H(p_d)          Jensen-Shannon divergence, in nats

    specialisation     I(E; S) / H(S) = J(all sources) / ln D,  S uniform       0 alike, 1 disjoint
    source divergence  mean over pairs of sources of J(p_d, p_d')               at most ln 2

As in arXiv:2608.20061, App. F and G. Both are computed from counted loads, so chance alone gives
about (E - 1) (D - 1) / (2 choices of experts) nats.

Letters: L MoE layers, B sequences of a batch, S of all batches, D sources, E experts.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from kanana_jax import model
from kanana_jax.batch import Batch
from kanana_jax.jobs import heldout
from kanana_jax.train import fit, step_functions


def evaluators(
    placed: Sequence[Batch], every: int, built: Any, sources: heldout.Sources
) -> tuple[fit.Evaluator, ...]:
    """One over batches, as `heldout.bits_per_byte` takes them; none without experts or sources.

    It makes a forward pass of its own over each batch.
    """
    steps: step_functions.Steps = built.steps
    has_experts = steps.like.weights.buffers["router_bias"].size > 0
    if len(set(sources.source_S.tolist())) < 2 or not has_experts:
        return ()

    def measure(weights: model.Weights) -> Mapping[str, Any]:
        loads = jax.device_get([steps.loads(weights, batch) for batch in placed])
        return summarize(np.concatenate(loads, axis=1), sources)

    return (fit.Evaluator("specialisation", every, measure),)


def summarize(load_LSE: Float[np.ndarray, "L S E"], sources: heldout.Sources) -> dict[str, Any]:
    """Means over layers, and by layer; the sources' loads in the layer that tells them apart most.

    Sequences beyond those of `sources` fill up the last batch.
    """
    source_S = sources.source_S
    present = sorted(set(source_S.tolist()))
    by_source = [load_LSE[:, : len(source_S)][:, source_S == one].sum(axis=1) for one in present]
    load_LDE = np.stack(by_source, axis=1).astype(np.float64)
    share_LDE = load_LDE / load_LDE.sum(axis=-1, keepdims=True)
    specialisation_L = divergence(share_LDE) / math.log(len(present))
    pairs = itertools.combinations(range(len(present)), 2)
    divergence_L = np.mean([divergence(share_LDE[:, list(pair)]) for pair in pairs], axis=0)
    return {
        "heldout_specialisation": float(specialisation_L.mean()),
        "heldout_source_divergence": float(divergence_L.mean()),
        "specialisation_layers": specialisation_L,
        "source_divergence_layers": divergence_L,
        "source_load": share_LDE[np.argmax(specialisation_L)] * share_LDE.shape[-1],
    }


def divergence(share_LDE: Float[np.ndarray, "L D E"]) -> Float[np.ndarray, "L"]:
    """Jensen-Shannon divergence of D distributions with equal weights."""
    return _entropy(share_LDE.mean(axis=1)) - _entropy(share_LDE).mean(axis=1)


def _entropy(share: np.ndarray) -> np.ndarray:
    return -np.sum(share * np.log(np.where(share > 0, share, 1.0)), axis=-1)
