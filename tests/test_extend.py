"""The examples of docs/extend.md work: its files as they stand, its diffs on a copy of the code."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kanana_jax import main

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extend.md").read_text()
FILES = dict(re.findall(r"```python\n# (\S+\.py)\n(.*?)```", PAGE, re.DOTALL))
SECTIONS = re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
DIFFS = {
    title: found[1]
    for title, section in SECTIONS
    if (found := re.search(r"```diff\n(.*?)```", section, re.DOTALL))
}

CHECKS = {
    "An optimizer": """
        from kanana_jax.train import optimizers
        cfg = config.OptimizerConfig(name="lion", lr=0.5, weight_decay=0.0)
        weights = jax.jit(lambda: model.init(shape, jax.random.key(0)))()
        made = optimizers.make(cfg, shape, lambda step: 0.5)
        grads = jax.tree.map(jax.numpy.ones_like, weights.params)
        moves, _ = made.update(grads, made.init(weights.params), weights.params)
        for move in jax.tree.leaves(moves):
            np.testing.assert_allclose(move, -0.5)
    """,
    "A schedule": """
        from kanana_jax.train import optimizers
        cfg = config.ScheduleConfig(name="rsqrt", warmup_steps=4)
        rate = optimizers.schedule(cfg, 100, 2.0)
        np.testing.assert_allclose([rate(0), rate(3), rate(15)], [0.5, 2.0, 1.0])
    """,
    "An attention mask": """
        tokens = np.random.default_rng(0).integers(0, 100, (1, 128))
        others = np.concatenate([tokens[:, :64] + 1, tokens[:, 64:]], axis=1)
        weights = model.init(shape, jax.random.key(0))
        def logits(tokens):
            inputs = model.Inputs.of_tokens(tokens)
            return model.apply(shape, weights, inputs, execution=presets.LAPTOP)[0]
        one, other = logits(tokens), logits(others)
        np.testing.assert_array_equal(one[:, 64:], other[:, 64:])
        assert np.abs(one[:, :64] - other[:, :64]).max() > 1e-3
    """,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


@pytest.mark.parametrize("name", ["mine.py", "decay.py", "chat.py", "with_balance.py"])
def test_an_experiment_of_the_page_can_be_run(folder, name):
    assert main.load_experiment(str(folder / name)).experiment().question


def test_the_objective_of_the_page_passes_its_test(folder):
    exec(compile(FILES["test_by_conversation.py"], "test_by_conversation.py", "exec"), found := {})
    found["test_weights_are_minus_the_gradient_of_the_loss"]()


def test_the_task_of_the_page_writes_its_steps(folder, capsys):
    exec(compile(FILES["remainder.py"], "remainder.py", "exec"), {})
    assert len(capsys.readouterr().out.split("mod")) > 3


def test_every_diff_has_a_check_and_names_its_files_in_the_table():
    assert DIFFS.keys() == CHECKS.keys()
    table = PAGE[: PAGE.index("## ")]
    for title, diff in DIFFS.items():
        for path in re.findall(r"^\+\+\+ b/(.*)$", diff, re.MULTILINE):
            assert f"`{path}`" in table, (title, path)


@pytest.mark.long
@pytest.mark.parametrize("title", CHECKS)
def test_a_diff_does_what_its_section_says(title, tmp_path):
    for package in ("kanana_jax", "pallas_kernels"):
        shutil.copytree(ROOT / package, tmp_path / package)
    subprocess.run(
        ["git", "apply", "--unidiff-zero", "-"],
        cwd=tmp_path, input=DIFFS[title], text=True, check=True,
        env=os.environ | {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
    )  # fmt: skip
    begin = [
        "import jax, numpy as np",
        "from kanana_jax import config, model",
        "from kanana_jax.model import presets",
        "import dataclasses",
        "shape = dataclasses.replace(presets.tiny(), vocab_size=128, num_layers=1)",
    ]
    body = [line.removeprefix(" " * 8) for line in CHECKS[title].splitlines()]
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", "\n".join(begin + body)]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
