"""The planner: a small model checked by hand, and mistakes said in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from kanana_jax import config, model, optim, plan
from kanana_jax.model import presets
from kanana_jax.plan import flops

ROOT = Path(__file__).parents[2]


def experiment() -> config.Experiment:
    """Wide enough that the weights outweigh the activations of its eight tokens per device."""
    exp = config.Experiment(name="small", question="", model=presets.tiny(4096))
    edits = ["model.hidden_size=512", "model.intermediate_size=2048", "mesh.data=1", "mesh.fsdp=4"]
    return config.edit(exp, [*edits, "data.batch_size=4", "data.seq_len=8", "optimizer.name=adamw"])


@pytest.mark.aot
def test_memory_of_a_small_model_agrees_with_arithmetic():
    pytest.importorskip("libtpu")
    exp = experiment()
    found = plan.compile_plan(exp, "v5e:2x2")
    num_params, _ = model.num_params(exp.model)
    # Norms and what else fsdp does not shard is below a percent here.
    assert found.param_bytes == pytest.approx(num_params * 4 / 4, rel=0.02)
    assert found.optimizer_bytes == pytest.approx(num_params * 8 / 4, rel=0.02)
    assert found.fits
    assert any(name.endswith("over fsdp") for name in found.collectives)


def test_model_flops_are_six_per_active_parameter_and_token_beside_attention():
    exp = experiment()
    tokens = 4 * 8
    _, active = model.num_params(exp.model)
    attention = 6 * tokens * 4 * 4 * (32 + 16 + 32) * 4
    wanted = 6 * (active - 4096 * 512) * tokens + attention
    assert flops.of_model(exp) == wanted


def test_muon_flops_of_one_matrix():
    """Three products per step: M M N, M M M and M M N multiplications."""
    spec = optim.MatrixSpec(batch=(0,), rows=(1,), cols=(2,))
    wanted = 3 * 5 * (2 * 4 * 4 * 8 + 2 * 4 * 4 * 4 + 2 * 4 * 4 * 8)
    assert flops.of_stack((3, 8, 4), spec, 5) == wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--preset=nobody", "--topology=v5p:2x2x1"), "--preset must be one of "),
        (("--preset=tiny", "--topology=z9:2x2"), "--topology starts with one of v5e, v5p, v6e"),
        (("--preset=tiny", "--topology=v5p:2x2x1", "--batch-tokens=5"), "is no multiple of"),
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
