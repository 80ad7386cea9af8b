"""The planner: a small model checked by hand, and mistakes said in one line."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kanana_jax import config, model, optim, parallel, plan
from kanana_jax.model import presets
from kanana_jax.objectives import NextToken
from kanana_jax.plan import chips, collectives, cost_model, figures, flops, picture
from kanana_jax.train import step_functions
from kanana_jax.train.step_config import StepConfig

ROOT = Path(__file__).parents[2]


def configuration(*edits: str) -> config.TrainingConfig:
    """Deep enough that the weights outweigh one layer's, gathered, and the activations."""
    execution = config.ExecutionConfig(compute_dtype="float32", remat="full")
    cfg = config.TrainingConfig(
        name="small", question="", model=presets.tiny(256), execution=execution
    )
    wide = [f"model.{name}" for name in ("hidden_size=512", "moe_intermediate_size=512")]
    deep = ["model.num_layers=48", "mesh.data=1", "mesh.fsdp=4"]
    return cfg.edited([*wide, *deep, "data.batch_size=4", "data.seq_len=16", *edits])


def step_config(cfg: config.TrainingConfig) -> StepConfig:
    return StepConfig.of(cfg, NextToken())


def make_plan(cfg: config.TrainingConfig, topology: str) -> plan.Plan:
    return plan.make_plan(cfg.name, step_config(cfg), cfg.mesh, topology)


@pytest.mark.aot
def test_memory_of_a_small_model_agrees_with_arithmetic():
    pytest.importorskip("libtpu")
    cfg = configuration("optimizer.name=adamw")
    found = make_plan(cfg, "v5e:2x2")
    num_params, _ = model.num_params(cfg.model)
    # Norms and what else fsdp does not shard is below a percent here.
    assert found.param_bytes == pytest.approx(num_params * 4 / 4, rel=0.01)
    assert found.optimizer_bytes == pytest.approx(num_params * 8 / 4, rel=0.01)
    # Beside them the gradients, and the updates that the guard looks at before they are added.
    assert found.total_bytes == pytest.approx(num_params * (12 + 8) / 4, rel=0.1)
    assert found.fits
    cost = cost_model.temporary_bytes(step_config(cfg), found.mesh)
    assert found.total_bytes == pytest.approx(num_params * 12 / 4 + cost, rel=0.1)
    by_kind = {name: item["num_bytes"] for name, item in found.collectives.items()}
    wanted = cost_model.traffic(step_config(cfg), found.mesh)["all-gather", "fsdp"].num_bytes
    assert by_kind["all-gather over fsdp"] == pytest.approx(wanted, rel=0.1)


@pytest.mark.aot
def test_tokens_are_exchanged_on_tpus_and_counted_as_for_balanced_routing():
    pytest.importorskip("libtpu")
    # Two of eight experts: 46 % of an all-gather's bytes, so "auto" takes the exchange.
    cfg = configuration("mesh.fsdp=1", "mesh.expert=4", "model.num_layers=3")
    found = make_plan(cfg, "v5e:2x2")
    wanted = cost_model.traffic(step_config(cfg), found.mesh)["ragged-all-to-all", "expert"]
    assert found.collectives["ragged-all-to-all over expert"] == wanted._asdict()
    assert "reduce-scatter over expert" not in found.collectives


@pytest.mark.aot
def test_a_step_that_does_not_fit_says_so_with_numbers():
    pytest.importorskip("libtpu")
    cfg = configuration("optimizer.name=adamw", "data.batch_size=65536", "data.seq_len=1024")
    with pytest.raises(config.ConfigError, match=r"does not fit: with 0\.\d GiB of parameters"):
        make_plan(cfg, "v5e:2x2")


@pytest.mark.long
def test_the_program_does_not_grow_with_depth():
    """The lowered steps of 9 and 17 layers differ in numbers only, so in shapes and trip counts."""

    def lowered(num_layers: int) -> str:
        edits = [f"model.num_layers={num_layers}", "mesh.expert=2", "data.batch_size=16"]
        cfg = configuration(*edits, "execution.accumulation_steps=2")
        text = (
            step_functions.build(step_config(cfg), parallel.make_mesh(cfg.mesh)).lower().as_text()
        )
        return re.sub(r"0x[0-9A-F]+|\d+", "#", text)

    assert lowered(9) == lowered(17)


@pytest.mark.slow
def test_a_plan_for_gpus_lowers_the_step_and_marks_its_estimates():
    cfg = configuration()
    found = make_plan(cfg, "h100:1x4")
    num_params, _ = model.num_params(cfg.model)
    assert found.param_bytes == pytest.approx(num_params * 4 / 4, rel=0.01)
    assert found.temporary_bytes == cost_model.temporary_bytes(step_config(cfg), found.mesh)
    assert {"temporary_bytes", "collectives"} <= set(found.estimates)
    assert not {"param_bytes", "optimizer_bytes"} & set(found.estimates)
    lines = picture.table(found).splitlines()
    marked = [line.split()[0] for line in lines if line.endswith("(estimate)")]
    assert marked == ["temporaries", "total", "collectives"]


def test_only_collectives_that_leave_a_host_take_the_network_between_hosts():
    gigabyte = collectives.Traffic(1, 1e9)
    sizes = {"data": 2, "fsdp": 8, "expert": 1, "context": 1, "tensor": 1}
    chip = chips.of_topology("h100:2x8")
    assert chip.between_hosts_bytes is not None
    for axes, rate in (
        ("fsdp", chip.network_bytes),
        ("data", chip.between_hosts_bytes),
        ("data+fsdp", chip.between_hosts_bytes),
    ):
        seconds = figures.network_s({("all-gather", axes): gigabyte}, "h100:2x8", sizes)
        assert seconds == pytest.approx(1e9 / rate)
    one_rate = figures.network_s({("all-gather", "data"): gigabyte}, "v5p:2x2x4", sizes)
    assert one_rate == pytest.approx(1e9 / chips.of_topology("v5p:2x2x4").network_bytes)


@pytest.mark.parametrize(
    ("topology", "edit", "line"),
    [
        ("h100:8", "model.num_layers=48", "a topology of GPUs is hosts x GPUs of each"),
        ("h100:0x8", "model.num_layers=48", "a topology of GPUs is hosts x GPUs of each"),
        (
            "h100:1x4",
            "execution.remat=none",
            "estimates for GPUs know execution.remat=full, got none",
        ),
        ("h100:1x4", "model.hidden_size=510", "model.hidden_size = 510 does not divide over"),
        ("h100:2x4", "mesh.data=1", "do not multiply to the 8 devices"),
    ],
)
def test_what_no_gpus_can_run_is_refused(topology, edit, line):
    with pytest.raises(config.ConfigError, match=line):
        make_plan(configuration(edit), topology)


def test_model_flops_are_six_per_active_parameter_and_token_beside_attention():
    cfg = configuration()
    tokens = 4 * 16
    _, active = model.num_params(cfg.model)
    attention = 6 * tokens * (16 / 2) * 48 * 4 * (32 + 16 + 32)
    wanted = 6 * (active - 256 * 512) * tokens + attention
    assert flops.of_model(cfg.model, 4, 16) == wanted
    audio = config.AudioConfig(hidden_size=8, num_layers=1, num_heads=1, intermediate_size=8)
    vision = config.VisionConfig(hidden_size=8, num_layers=1, num_heads=1, intermediate_size=8)
    reader = dataclasses.replace(cfg.model, audio=audio, vision=vision)
    assert flops.of_model(reader, 4, 16) == wanted


def test_muon_flops_of_one_matrix():
    """Three products per step: M M N, M M M and M M N multiplications."""
    spec = optim.MatrixSpec(batch=(0,), rows=(1,), cols=(2,))
    wanted = 3 * 5 * (2 * 4 * 4 * 8 + 2 * 4 * 4 * 4 + 2 * 4 * 4 * 8)
    assert flops.of_stack((3, 8, 4), spec, 5) == wanted


@pytest.mark.long
@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--preset=nobody", "--topology=v5p:2x2x1"), "--preset must be one of "),
        (
            ("--preset=tiny", "--topology=z9:2x2"),
            "--topology starts with one of v5e, v5p, v6e, h100, h200",
        ),
        (("--preset=tiny", "--topology=v5p:2x2x1", "--batch-tokens=5"), "is no multiple of"),
        (
            (
                "--preset=tiny",
                "--topology=v5p:2x2x1",
                "--set=lora.rank=8",
                "--set=train.router_bias_rate=0",
            ),
            "plans know no adapters, got lora.rank = 8",
        ),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(flags, line):
    done = subprocess.run(
        [sys.executable, "-m", "kanana_jax.plan", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={"JAX_PLATFORMS": "cpu", "PATH": ""},
    )
    assert done.returncode == 2
    assert line in done.stderr.splitlines()[-1]
