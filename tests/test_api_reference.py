"""The reference of public functions is made from docstrings, without a warning."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_reference_is_made_without_a_warning(tmp_path):
    (command,) = re.findall(
        r"\$\(BIN\)/python (-W error -m pdoc .*)\n", (ROOT / "Makefile").read_text()
    )
    command = command.replace("build/api", str(tmp_path)).replace("$(API)", "kanana_jax.optim")
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    made = subprocess.run(
        [sys.executable, *command.split()],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    page = (tmp_path / "kanana_jax" / "optim.html").read_text()
    assert "with_master_weights" in page and "Wrap an optimizer" in page
