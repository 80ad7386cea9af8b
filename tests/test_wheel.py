"""A wheel has all that the ways in of README.md need, outside the repository."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRAINED = ROOT / "tests" / "generate" / "trained"
pytestmark = [pytest.mark.slow, pytest.mark.long]
PACKAGES = ("kanana_jax", "pallas_kernels", "experiments")
FEW_STEPS = (
    "--set=train.num_steps=2", "--set=train.eval_batches=1", "--set=optimizer.lr=0.01",
    "--set=optimizer.schedule.warmup_steps=0", "--set=optimizer.schedule.decay_steps=1",
    '--set=arms=["MuonClip","AdamW"]',
)  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the packages of the wheel, which hide those of the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, source]
    made = subprocess.run(build, capture_output=True, text=True)
    if made.returncode and "No matching distribution" in made.stderr:
        pytest.skip("pip cannot reach what builds a wheel")
    assert made.returncode == 0, made.stderr
    (wheel,) = folder.glob("kanana_jax-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def run(site, tmp_path):
    def call(*arguments):
        environment = os.environ | {"PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, *map(str, arguments)]
        ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-2000:]
        return ran.stdout

    return call


def test_the_packages_are_those_of_the_wheel(site, run):
    shown = run("-c", "\n".join(f"import {name}; print({name}.__file__)" for name in PACKAGES))
    assert all(line.startswith(str(site)) for line in shown.split())
    assert (site / "kanana_jax" / "py.typed").exists()


def test_an_experiment_ends_in_a_report(run, tmp_path):
    run("-m", "kanana_jax.main", "--experiment=muon_stress", "--workdir=stress", *FEW_STEPS)
    assert "MuonClip" in (tmp_path / "stress" / "report.html").read_text()


def test_every_experiment_is_listed_and_a_pipeline_shows_its_settings(run):
    shown = run("-m", "kanana_jax.main", "--help")
    assert "kanana_post" in shown and "vision_hybrid" in shown
    assert '"stages"' in run("-m", "kanana_jax.main", "--experiment=kanana_post", "--print_config")


def test_a_model_goes_out_comes_in_and_speaks(run, tmp_path):
    run("-m", "kanana_jax.convert", f"--from-hf={TRAINED}", "--to=imported")
    run("-m", "kanana_jax.convert", "--from=imported", "--to-hf=published")
    asked = ("--prompt=import ", "--max-tokens=4", "--temperature=0")
    said = [
        run("-m", "kanana_jax.generate", f"--checkpoint={folder}", *asked)
        for folder in (tmp_path / "imported", tmp_path / "published")
    ]
    assert said[0] == said[1] != ""


def test_optimizer_and_kernels_are_borrowed(run):
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        run("-c", code)
