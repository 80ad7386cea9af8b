"""Memory of a train step with adapters against one of the whole model, from the compiled program.

    python -m benchmarks.lora_memory
    python -m benchmarks.lora_memory --tiny

The step of a published shape with fewer layers is compiled for the device that is present, and not
run: no array is made, so a laptop can ask about a model that it cannot hold. Prints a table, and a
JSON line with what it was made on.

    trained       parameters that the optimizer moves
    state         they, their optimizer state, and what a checkpoint holds
    arguments     the state, the frozen model and the batch
    temporary     all that the step needs besides these: activations, gradients, merged layers
"""

import json
import time
from typing import Any

import jax
from absl import app, flags

from benchmarks import slices
from kanana_jax import config, parallel
from kanana_jax.objectives import NextToken
from kanana_jax.plan import figures
from kanana_jax.train import step_functions, trained
from kanana_jax.train.step_config import StepConfig

_TINY = flags.DEFINE_bool("tiny", False, "A tiny model and batch.")
_PRESET = flags.DEFINE_string("preset", "kanana_2_30b_a3b", "A function of model.presets.")
_LAYERS = flags.DEFINE_integer("layers", 4, "Layers kept, the leading dense ones first.")
_BATCH = flags.DEFINE_integer("batch", 4, "Sequences per step.")
_SEQ_LEN = flags.DEFINE_integer("seq_len", 2048, "Tokens per sequence.")
_RANK = flags.DEFINE_integer("rank", 8, "Of every adapter.")
_SET = flags.DEFINE_multi_string("set", [], "Edits of the settings of all arms, path=value.")
_ONLY = flags.DEFINE_multi_string("only", [], "Arms to compile, by name; none: all.")

ARMS = {
    "the model, AdamW": ["optimizer.name=adamw"],
    "the model, Muon": ["optimizer.name=muon"],
    "adapters, AdamW": ["optimizer.name=adamw", "lora.rank={rank}"],
    "adapters, Muon": ["optimizer.name=muon", "lora.rank={rank}"],
    "adapters, Muon, bfloat16 base": [
        "optimizer.name=muon", "lora.rank={rank}", "lora.base_dtype=bfloat16",
    ],
}  # fmt: skip


def measured(name: str) -> dict[str, Any]:
    shape, rows, seq_len = (
        (slices.of_preset("tiny", 2), 4, 64)
        if _TINY.value
        else (slices.of_preset(_PRESET.value, _LAYERS.value), _BATCH.value, _SEQ_LEN.value)
    )
    cfg = config.TrainingConfig(
        name="lora",
        question="What memory do adapters need?",
        model=shape,
        execution=config.ExecutionConfig(remat="full"),
        data=config.DataConfig(seq_len=seq_len, batch_size=rows),
        train=config.TrainConfig(num_steps=100, router_bias_rate=0.0),
        mesh=config.MeshConfig(data=1),
    ).edited([*(edit.format(rank=_RANK.value) for edit in ARMS[name]), *_SET.value])
    made = StepConfig.of(cfg, NextToken(), num_devices=1)
    steps = step_functions.build(made, parallel.make_mesh(cfg.mesh, jax.devices()[:1]))
    began = time.perf_counter()
    memory: Any = steps.lower().compile().memory_analysis()
    state = figures.bytes_per_device((steps.like.weights, steps.like.opt_state))
    return {
        "arm": name,
        "trained": trained.count(made.model, made.lora),
        "state_gib": _gib(state),
        "arguments_gib": _gib(memory.argument_size_in_bytes),
        "temporary_gib": _gib(memory.temp_size_in_bytes),
        "peak_gib": _gib(
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes
        ),
        "compile_s": round(time.perf_counter() - began, 1),
    }


def _gib(num_bytes: float) -> float:
    return round(num_bytes / 2**30, 3)


def main(argv: list[str]) -> None:
    del argv
    rows = []
    for name in _ONLY.value or ARMS:
        rows.append(measured(name))
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    about = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "rows": rows}
    print(json.dumps(about))


if __name__ == "__main__":
    app.run(main)
