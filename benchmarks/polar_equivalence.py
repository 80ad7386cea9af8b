"""Does training end at the same loss with Muon's fast products as with float32 ones on XLA?

Trains a small mixture-of-experts model for 200 MuonClip steps on a random Markov chain, with
several seeds, once with polar factors in float32 on XLA and once as the flags say. The seed sets
the initial weights and the data. One JSON line per arm: the mean loss of the last 20 steps of each
seed. Exit code 1 unless the difference, paired by seed, lies within MARGIN with its whole band.

    python -m benchmarks.polar_equivalence
    python -m benchmarks.polar_equivalence --implementation=xla --dtype=bfloat16 --steps=20
"""

import dataclasses
import json
import sys
import time
from typing import Any

import jax
import numpy as np
from absl import app, flags

from kanana_jax import config, parallel
from kanana_jax.batch import Batch
from kanana_jax.model import presets
from kanana_jax.objectives import NextToken
from kanana_jax.report import statistics
from kanana_jax.train import step_functions
from kanana_jax.train.step_config import StepConfig

_IMPLEMENTATION = flags.DEFINE_enum(
    "implementation", "mosaic_gpu", ["mosaic_gpu", "mosaic_tpu", "xla"], "Of the products."
)
_DTYPE = flags.DEFINE_enum(
    "dtype", "float16", ["float32", "bfloat16", "float16"], "Of the iteration."
)
_STEPS = flags.DEFINE_integer("steps", 200, "Optimizer steps.", lower_bound=20)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each arm.", lower_bound=2)

VOCAB, NUM_SUCCESSORS = 256, 4  # the chain's entropy is log 4 = 1.386
BATCH, SEQ_LEN = 16, 64
LAST = 20
LR = 0.01
MARGIN = 0.01  # nats per token


def described(**polar: Any) -> StepConfig:
    """Two layers, one of them of experts; every matrix is one that all kernels take."""
    shape = dataclasses.replace(
        presets.tiny(VOCAB),
        hidden_size=128,
        num_layers=2,
        num_heads=2,
        q_lora_rank=128,
        kv_lora_rank=128,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        intermediate_size=256,
        moe_intermediate_size=128,
    )
    cfg = config.TrainingConfig(
        name="polar_equivalence",
        question="Do fast polar factors train as well?",
        model=shape,
        data=config.DataConfig(seq_len=SEQ_LEN, batch_size=BATCH),
        optimizer=config.OptimizerConfig(**polar),
        train=config.TrainConfig(num_steps=_STEPS.value),
    )
    return StepConfig.of(cfg, NextToken(z_weight=cfg.train.z_loss_weight))


def chain_batch(successors_VS, rng) -> Batch:
    """One walk over the chain per row."""
    choices = rng.integers(0, NUM_SUCCESSORS, (BATCH, SEQ_LEN))
    tokens = [rng.integers(0, VOCAB, BATCH)]
    for t in range(SEQ_LEN):
        tokens.append(successors_VS[tokens[-1], choices[:, t]])
    return Batch.of_tokens(np.stack(tokens, axis=1).astype(np.int32))


def final_loss(cfg: StepConfig, seed: int) -> float:
    """Mean loss of the last steps of one run."""
    mesh = parallel.make_mesh(config.MeshConfig(), jax.devices()[:1])
    steps = step_functions.build(cfg, mesh)
    state = steps.init(seed)
    rng = np.random.default_rng(seed)
    successors_VS = np.random.default_rng(0).integers(0, VOCAB, (VOCAB, NUM_SUCCESSORS))
    losses = []
    for _ in range(cfg.num_steps):
        batch = parallel.shard_batch(mesh, chain_batch(successors_VS, rng))
        state, record = steps.train(state, batch, LR, {})
        losses.append(record["loss"])
    return float(np.mean(jax.device_get(losses[-LAST:])))


def run(**polar: Any) -> np.ndarray:
    """Final losses by seed, also printed."""
    start = time.perf_counter()
    losses = np.array([final_loss(described(**polar), seed) for seed in range(_SEEDS.value)])
    shown = {"loss_by_seed": losses.round(5).tolist(), "mean": round(float(losses.mean()), 5)}
    seconds = round(time.perf_counter() - start, 1)
    print(json.dumps(polar | shown | {"seconds": seconds}), flush=True)
    return losses


def main(_):
    reference = run(polar_dtype="float32", polar_implementation="xla")
    fast = run(polar_dtype=_DTYPE.value, polar_implementation=_IMPLEMENTATION.value)
    difference = statistics.difference_of_seeds(fast, reference)
    outcome = difference.outcome(MARGIN)
    verdict = {"outcome": outcome, "margin": MARGIN, **dataclasses.asdict(difference)}
    about = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    print(json.dumps(verdict | about | {"steps": _STEPS.value}))
    sys.exit(0 if outcome in ("equal", "better") else 1)  # NaN resolves nothing


if __name__ == "__main__":
    app.run(main)
