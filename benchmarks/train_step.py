"""Time a whole train step of a published shape with fewer layers, and say where the time goes.

The step is the one that experiments run: forward, backward, optimizer, on random tokens packed as
one document per row. One JSON line: milliseconds, tokens per second, model FLOP/s utilisation
against the dense bfloat16 peak of all devices, memory of one, and with --profile the time split.

    python -m benchmarks.train_step --preset=kanana_2_30b_a3b --layers=3
    python -m benchmarks.train_step --preset=tiny --layers=2 --batch=2 --seq_len=64

`--set=path=value` edits the settings, for example --set=execution.attention_implementation=xla, or
--set=mesh.data=1 --set=mesh.expert=2 for two devices. What `auto` chose is in the line.
"""

import dataclasses
import json
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import kernel_times, slices
from kanana_jax import config, model, parallel
from kanana_jax.batch import Batch
from kanana_jax.objectives import NextToken
from kanana_jax.plan import chips, flops
from kanana_jax.train import step_functions
from kanana_jax.train.step_config import StepConfig

_PRESET = flags.DEFINE_string(
    "preset", "kanana_2_30b_a3b", "A function of kanana_jax.model.presets."
)
_LAYERS = flags.DEFINE_integer("layers", 3, "Layers kept, the leading dense ones first.")
_SEQ_LEN = flags.DEFINE_integer("seq_len", 4096, "Tokens per sequence.")
_BATCH = flags.DEFINE_integer("batch", 4, "Sequences per optimizer step.")
_SET = flags.DEFINE_multi_string("set", [], "Edits of the experiment, path=value.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed steps.", lower_bound=1)
_PROFILE = flags.DEFINE_bool("profile", False, "Also profile one step; see kernel_times.")

SCOPES = {
    "optimizer": "optimizer",
    "attention": "attention",
    "experts": "experts",
    "dense and shared MLP, router": "mlp",
    "head and loss": "head",
}


def described() -> config.TrainingConfig:
    """What the flags describe."""
    cfg = config.TrainingConfig(
        name="train_step",
        question="How fast is a train step?",
        model=slices.of_preset(_PRESET.value, _LAYERS.value),
        data=config.DataConfig(seq_len=_SEQ_LEN.value, batch_size=_BATCH.value),
        optimizer=config.OptimizerConfig(name="muonclip"),
        train=config.TrainConfig(num_steps=100),
    )
    return cfg.edited(_SET.value)


def random_batch(cfg: StepConfig, mesh) -> Batch:
    """One document per row, ids drawn uniformly."""
    shape = (cfg.batch_size, cfg.seq_len + 1)
    tokens = np.random.default_rng(0).integers(0, cfg.model.vocab_size, shape, np.int32)
    return parallel.shard_batch(mesh, Batch.of_tokens(tokens))


def main(_) -> None:
    settings = described()
    cfg = StepConfig.of(settings, NextToken(z_weight=settings.train.z_loss_weight))
    mesh = parallel.make_mesh(settings.mesh)
    steps = step_functions.build(cfg, mesh)
    state, batch = steps.init(0), random_batch(cfg, mesh)
    num_params, _ = model.num_params(cfg.model)
    compiled = steps.lower().compile()
    times, record = [], {}
    for _ in range(_REPEATS.value + 2):
        start = time.perf_counter()
        state, record = steps.train(state, batch, 0.001, {})
        jax.block_until_ready((state, record))
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times[2:])
    kind = jax.devices()[0].device_kind
    work = flops.of_model(cfg.model, cfg.batch_size, cfg.seq_len)
    chip = chips.of_device(jax.devices()[0])
    tokens = cfg.batch_size * cfg.seq_len
    memory: Any = compiled.memory_analysis()
    stats = jax.devices()[0].memory_stats() or {}
    result = {
        "preset": _PRESET.value,
        "layers": cfg.model.num_layers,
        "num_params": num_params,
        "tokens": tokens,
        "edits": _SET.value,
        "execution": dataclasses.asdict(cfg.execution),
        "ms": round(1e3 * seconds, 2),
        "tokens_per_s": round(tokens / seconds),
        "mfu": round(work / seconds / (chip.bf16_flops * mesh.size), 4) if chip else None,
        "temporary_gib": round(memory.temp_size_in_bytes / 2**30, 3),
        "peak_gib": round(stats.get("peak_bytes_in_use", 0) / 2**30, 3),
        "loss_is_finite": bool(jnp.isfinite(record["loss"])),
        "device": kind,
        "num_devices": mesh.size,
        "jax": jax.__version__,
    }
    if _PROFILE.value:

        def run():
            nonlocal state
            state, record = steps.train(state, batch, 0.001, {})
            return record

        found = kernel_times.measure(run, compiled.as_text() or "", calls=2)
        result["split_ms"] = kernel_times.by_scope(found, SCOPES)
        kernel_times.print_slowest(found)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    app.run(main)
