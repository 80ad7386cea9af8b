"""Memory and speed of a train step by its objective: SFT, preferences, policy gradients, a teacher.

    sft             next token, on the targets of the pairs
    dpo, cached     log-probabilities of the reference come with the batch
    dpo, computed   reference weights beside the model, and their forward pass in the step
    reward          a scalar at the end of each answer
    grpo            clipped ratios to the policy before the update, TIS
    grpo, replay    the same, tokens going where the batch says
    taught          the divergence from a teacher of the same shape, which the step runs too

All arms see the same rows of pairs: a published shape with fewer layers and its whole vocabulary,
random tokens, half of them targets. Each runs in a process of its own, so that the peak of the
device's memory is its own. Prints a table, and a JSON line with what it was made on.

    python -m benchmarks.objectives
    python -m benchmarks.objectives --tiny
"""

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags

from benchmarks import slices
from kanana_jax import config, model, parallel
from kanana_jax.batch import Batch
from kanana_jax.objectives import NextToken, Objective, presets, soft_targets
from kanana_jax.objectives.corrections import Truncated
from kanana_jax.objectives.distillation import Distillation, Teaching
from kanana_jax.objectives.dpo import dpo
from kanana_jax.objectives.reward import Reward
from kanana_jax.train import step_functions, teacher
from kanana_jax.train.step_config import StepConfig

_TINY = flags.DEFINE_bool("tiny", False, "A tiny model and batch, for a machine without a GPU.")
_LAYERS = flags.DEFINE_integer("layers", 2, "Layers kept, the leading dense ones first.")
_BATCH = flags.DEFINE_integer("batch", 8, "Sequences per step.")
_SEQ_LEN = flags.DEFINE_integer("seq_len", 4096, "Tokens per sequence.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed steps.", lower_bound=1)
_SET = flags.DEFINE_multi_string("set", [], "Edits of the settings, path=value.")
_ONLY = flags.DEFINE_multi_string("only", [], "Arms to measure, by name; none: all.")
_ARM = flags.DEFINE_string("arm", "", "Run this arm alone, in this process.")

_SEGMENTS = 8  # of a row: four pairs

OBJECTIVES: dict[str, Objective] = {
    "sft": NextToken(),
    "dpo, cached": dpo(0.1, reference="cached"),
    "dpo, computed": dpo(0.1, reference="computed"),
    "reward": Reward(),
    "grpo": presets.grpo(correction=Truncated()),
    "grpo, replay": presets.grpo(correction=Truncated(), replays_routes=True),
    "taught": Distillation(Teaching(soft_targets.ForwardKL())),
}
_COLUMNS = ("arm", "peak_gib", "arguments_gib", "temporary_gib", "ms", "tokens_per_s")


def described(objective: Objective) -> config.TrainingConfig:
    """What the flags describe, with a scalar head where the objective reads one."""
    preset, layers = ("tiny", 2) if _TINY.value else ("kanana_2_30b_a3b", _LAYERS.value)
    rows, seq_len = (4, 64) if _TINY.value else (_BATCH.value, _SEQ_LEN.value)
    shape = slices.of_preset(preset, layers)
    cfg = config.TrainingConfig(
        name="objectives",
        question="What does an objective cost?",
        model=dataclasses.replace(shape, scalar_head=objective.reads_scalars),
        data=config.DataConfig(seq_len=seq_len, batch_size=rows),
        train=config.TrainConfig(
            num_steps=100, z_loss_weight=0.0, balance_loss_weight=0.0, router_bias_rate=0.0
        ),
    )
    return cfg.edited(_SET.value)


def batch_of_pairs(cfg: StepConfig, mesh) -> Batch:
    """Random tokens in segments of one length, the second half of each an answer."""
    shape = (cfg.batch_size, cfg.seq_len)
    rng = np.random.default_rng(0)
    tokens, targets = rng.integers(0, cfg.model.vocab_size, (2, *shape), np.int32)
    length = cfg.seq_len // _SEGMENTS
    positions = np.broadcast_to(np.arange(cfg.seq_len, dtype=np.int32) % length, shape)
    segments = np.broadcast_to(np.arange(cfg.seq_len, dtype=np.int32) // length + 1, shape)
    mask = (positions >= length // 2).astype(np.float32)
    extra = {name: np.full(shape, -10.0, np.float32) for name in cfg.objective.columns}
    batch = Batch(tokens, targets, positions, segments, mask, mask, extra)
    if cfg.objective.replays_routes:
        batch = batch._replace(routes=_routes(rng, cfg))
    return parallel.shard_batch(mesh, batch)


def _routes(rng: np.random.Generator, cfg: StepConfig) -> np.ndarray:
    """Experts that differ for every token, each equally often in the mean."""
    shape = cfg.model
    first = rng.integers(
        0, shape.num_experts, (cfg.batch_size, cfg.seq_len, shape.num_moe_layers, 1), np.int32
    )
    return (first + np.arange(shape.num_experts_per_token, dtype=np.int32)) % shape.num_experts


def measured(name: str) -> dict[str, Any]:
    """One arm, in this process."""
    objective = OBJECTIVES[name]
    settings = described(objective)
    is_taught = objective.teaching is not None
    cfg = StepConfig.of(settings, objective, teacher=settings.model if is_taught else None)
    mesh = parallel.make_mesh(settings.mesh, jax.devices()[:1])
    steps = step_functions.build(cfg, mesh)
    began = time.perf_counter()
    memory: Any = steps.lower().compile().memory_analysis()
    compile_s = time.perf_counter() - began
    state, batch = steps.init(0), batch_of_pairs(cfg, mesh)
    names = (*objective.frozen, *([teacher.NAME] if is_taught else []))
    frozen = {one: steps.weights(0) for one in names}
    times, record = [], {}
    for _ in range(_REPEATS.value + 2):
        began = time.perf_counter()
        state, record = steps.train(state, batch, 1e-4, frozen)
        jax.block_until_ready((state, record))
        times.append(time.perf_counter() - began)
    seconds, stats = statistics.median(times[2:]), jax.devices()[0].memory_stats() or {}
    if not np.isfinite(record["loss"]):
        raise ValueError(f"{name}: expected a finite loss, got {record['loss']}")
    return {
        "arm": name,
        "peak_gib": _gib(stats.get("peak_bytes_in_use", 0)) or None,
        "arguments_gib": _gib(memory.argument_size_in_bytes),
        "temporary_gib": _gib(memory.temp_size_in_bytes),
        "ms": round(1e3 * seconds, 2),
        "tokens_per_s": round(cfg.batch_size * cfg.seq_len / seconds),
        "compile_s": round(compile_s, 1),
        "num_params": model.num_params(cfg.model)[0],
        "vocab_size": cfg.model.vocab_size,
        "tokens": cfg.batch_size * cfg.seq_len,
        "execution": dataclasses.asdict(cfg.execution),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }


def _gib(num_bytes: int) -> float:
    return round(num_bytes / 2**30, 4)


def in_process_of_its_own(name: str) -> dict[str, Any]:
    """What `measured` gives, run by another Python with this one's flags."""
    command = [sys.executable, "-m", "benchmarks.objectives", *sys.argv[1:], f"--arm={name}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _commit() -> str:
    command = ["git", "rev-parse", "HEAD"]
    done = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def _print_row(row: dict[str, Any]) -> None:
    print("  ".join(f"{row[name]!s:>14}" for name in _COLUMNS), flush=True)


def main(_) -> None:
    if _ARM.value:
        print(json.dumps(measured(_ARM.value)), flush=True)
        return
    found = []
    _print_row(dict(zip(_COLUMNS, _COLUMNS, strict=True)))
    for name in _ONLY.value or OBJECTIVES:
        found.append(in_process_of_its_own(name))
        _print_row(found[-1])
    command = " ".join(["python -m benchmarks.objectives", *sys.argv[1:]])
    print(json.dumps({"commit": _commit(), "command": command, "arms": found}), flush=True)


if __name__ == "__main__":
    app.run(main)
