"""The evaluator of the gains of norms, and of the outputs of norms.

    gain_max_C, gain_spread_C      largest |g|, and standard deviation over mean |g|, of a class C
    kurtosis_C                     E[y^4] / E[y^2]^2 - 3 of the norm's output y: 0 for a normal one
    fp8_error_C                    |y - q(y)| / |y|, q being E4M3 with one scale per 128 numbers
    heldout_folded, _dropped       bits per byte with gains folded into the matrices behind them,
                                   which changes no function, and with them left out

Classes are those of `model.surgery.by_class`. Outputs are those of the norms of the stream, on the
first held-out batch. The last two are measured on models that have gains, a head of their own and
no adapters, which `surgery.fold_gains` takes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kanana_jax import config, data, model
from kanana_jax.batch import Batch
from kanana_jax.jobs import heldout
from kanana_jax.jobs.job import Built
from kanana_jax.model import streams, surgery
from kanana_jax.train import fit
from pallas_kernels import quantize


def evaluator(
    corpus: data.Corpus, cfg: config.DataConfig, train: config.TrainConfig, built: Built
) -> fit.Evaluator:
    """For `job.measuring`."""
    steps = built.steps
    batches = data.heldout_batches(corpus, cfg, train.eval_batches, rows=built.rows(cfg.batch_size))
    placed = [built.place(batch, cfg.batch_size) for batch in batches]
    shape, execution = steps.cfg.model, steps.cfg.execution

    @jax.jit
    def of_outputs(weights: model.Weights, batch: Batch) -> Mapping[str, Array]:
        return outputs(shape, weights, batch, execution)

    def measure(weights: model.Weights) -> Mapping[str, Any]:
        found = jax.device_get({**sizes(shape, weights), **of_outputs(weights, placed[0])})
        is_whole = weights.adapters is None and not shape.tie_embeddings
        if shape.norm_gain == "none" or not is_whole:
            return found
        others = {
            "heldout_folded": surgery.fold_gains(shape, weights),
            "heldout_dropped": surgery.drop_gains(shape, weights),
        }
        return found | {name: _bpb(steps, one, placed) for name, one in others.items()}

    return fit.Evaluator("gains", train.eval_interval_steps, measure)


def sizes(cfg: config.ModelConfig, weights: model.Weights) -> dict[str, Array]:
    """The largest gain of each class and their spread; empty for a model without gains."""
    found = {}
    for name, gains in surgery.by_class(cfg, weights).items():
        size = jnp.abs(jnp.concatenate([jnp.ravel(gain) for gain in gains]))
        found[f"gain_max_{name}"] = size.max()
        found[f"gain_spread_{name}"] = size.std() / size.mean()
    return found


def outputs(
    cfg: config.ModelConfig,
    weights: model.Weights,
    batch: Batch,
    execution: config.ExecutionConfig,
) -> dict[str, Array]:
    """Kurtosis and FP8 error: the mean over the norms before attention, and the last norm's."""
    found = {}
    made = streams.norm_outputs(cfg, weights, batch.inputs, execution)
    for name, outputs_L in made.items():
        found[f"kurtosis_{name}"] = jnp.mean(jnp.stack([kurtosis(y) for y in outputs_L]))
        found[f"fp8_error_{name}"] = jnp.mean(jnp.stack([fp8_error(y) for y in outputs_L]))
    return found


def kurtosis(y: Float[Array, "B S D"]) -> Float[Array, ""]:
    """Excess kurtosis of all numbers together."""
    squares = jnp.square(y.astype(jnp.float32))
    return jnp.mean(squares**2) / jnp.mean(squares) ** 2 - 3.0


def fp8_error(y: Float[Array, "B S D"]) -> Float[Array, ""]:
    """Relative error of rounding to E4M3 with a scale for every 128 numbers of a token."""
    rows = y.reshape(-1, y.shape[-1]).astype(jnp.float32)
    rounded = quantize.dequantize(quantize.quantize(rows), jnp.float32)
    return jnp.linalg.norm(rows - rounded) / jnp.linalg.norm(rows)


def _bpb(steps: Any, weights: model.Weights, placed: Sequence[Batch]) -> float:
    per_batch = jax.device_get([steps.evaluate(weights, batch) for batch in placed])
    return heldout.summarize(per_batch)["heldout_bpb"]
