"""Plans a run without its hardware.

python -m kanana_jax.plan --preset=kanana_2_30b_a3b --topology=v5p:4x4x4 --mesh=fsdp=8,expert=8
python -m kanana_jax.plan --preset=kanana_2_30b_a3b --topology=h100:8x8 --mesh=fsdp=8,expert=8

Plans for TPUs are compiled; for GPUs (hosts x GPUs of each), memory and collectives are estimates.
A run with stages, --set='stages=[{"name": "long", "tokens": 4194304, "batch_size": 16}]', has a
plan for each batch and length in it.

Exit code 2: the mesh, the model or the topology do not go together; one line says why.
"""

import dataclasses
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags

from kanana_jax import config, plan
from kanana_jax.config import paths
from kanana_jax.errors import UserError
from kanana_jax.model import presets
from kanana_jax.objectives import NextToken
from kanana_jax.plan import picture
from kanana_jax.train import choices
from kanana_jax.train.step_config import StepConfig

_PRESET = flags.DEFINE_string("preset", None, "Function of kanana_jax.model.presets.")
_TOPOLOGY = flags.DEFINE_string("topology", None, "Such as v5p:4x4x4, or h100:8x8 (hosts x GPUs).")
_MESH = flags.DEFINE_string("mesh", "", "axis=size,...; data takes the devices left.")
_BATCH_TOKENS = flags.DEFINE_integer("batch-tokens", 4 * 2**20, "Tokens per optimizer step.")
_SEQ_LEN = flags.DEFINE_integer("seq-len", 4096, "Tokens per sequence.")
_SET = flags.DEFINE_multi_string("set", [], "path=value: overrides one setting; may be repeated.")
_OUT = flags.DEFINE_string("out", None, "Folder for plan.json and memory.png; default: none.")


def planned() -> config.StagedConfig:
    """What the flags describe: MuonClip, every layer recomputed."""
    known = _presets()
    if _PRESET.value not in known:
        names = ", ".join(known)
        raise config.ConfigError(f"--preset must be one of {names}; got {_PRESET.value!r}")
    if _SEQ_LEN.value < 1 or _BATCH_TOKENS.value % _SEQ_LEN.value:
        raise config.ConfigError(
            f"--batch-tokens={_BATCH_TOKENS.value} is no multiple of --seq-len={_SEQ_LEN.value}"
        )
    cfg = config.StagedConfig(
        name=_PRESET.value,
        question="",
        model=known[_PRESET.value](),
        execution=config.ExecutionConfig(remat="full"),
        data=config.DataConfig(
            batch_size=_BATCH_TOKENS.value // _SEQ_LEN.value, seq_len=_SEQ_LEN.value
        ),
    )
    edits = [f"mesh.{part.strip()}" for part in _MESH.value.split(",") if part.strip()]
    cfg = cfg.edited([*edits, *_SET.value])
    if cfg.lora.rank:
        raise config.ConfigError(
            f"plans know no adapters, got lora.rank = {cfg.lora.rank}; leave it out, and see "
            "benchmarks/lora_memory.py for what a step with them needs"
        )
    return cfg


def _presets() -> dict[str, Callable[[], config.ModelConfig]]:
    """The presets that need no argument."""
    functions = inspect.getmembers(presets, inspect.isfunction)
    return {
        name: function
        for name, function in functions
        if not name.startswith("_")
        and all(p.default is not p.empty for p in inspect.signature(function).parameters.values())
    }


def main(argv: list[str]) -> None:
    try:
        topology = _TOPOLOGY.value
        if argv[1:] or not topology:
            raise config.ConfigError(f"--topology is needed, and nothing but flags; got {argv[1:]}")
        out = None if _OUT.value is None else paths.local(_OUT.value, "--out")
        if out is not None:
            paths.expect_folder(out, "--out")
        cfg, chip = planned(), plan.chips.of_topology(topology)
        device = choices.Device(plan.chips.platform(topology), chip.hbm_bytes)
        num_devices = plan.chips.num_devices(topology)
        steps: dict[StepConfig, list[str]] = {}
        for stage in cfg.in_stages():
            rates = cfg.rate_segments()
            step = StepConfig.of(stage.config, NextToken(), device, num_devices, rates)
            steps.setdefault(step, []).append(stage.name)
        found = {
            _name(cfg.name, names): plan.make_plan(_name(cfg.name, names), step, cfg.mesh, topology)
            for step, names in steps.items()
        }
    except (UserError, OSError) as error:
        print(f"kanana_jax.plan: {error}", file=sys.stderr)
        sys.exit(2)
    for name, one in found.items():
        print(picture.table(one))
        if out is not None:
            _write(one, out if len(found) == 1 else out / name)


def _name(name: str, stages: list[str]) -> str:
    """The name of a plan: the model's, with the stages that it is for."""
    return "-".join([name, *filter(None, stages)])


def _write(found: plan.Plan, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    derived = {"total_bytes": found.total_bytes, "fits": found.fits, "mfu": found.mfu_bound}
    (out / "plan.json").write_text(json.dumps(dataclasses.asdict(found) | derived, indent=2))
    picture.draw(found, out / "memory.png")


if __name__ == "__main__":
    app.run(main)
