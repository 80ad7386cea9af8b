"""The examples of the folder's README run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kanana_jax import optim

README = Path(optim.__file__).with_name("README.md")


def test_readme_examples_run_from_top_to_bottom():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 6
    variables = {"optim": optim}
    for block in blocks:
        exec(compile(block, README.name, "exec"), variables)


@pytest.mark.slow
def test_plain_dictionary_example_needs_base_dependencies_only():
    example = README.read_text().split("### A plain dictionary")[1].split("```")[1]
    code = example.removeprefix("python\n") + (
        "\nimport sys\n"
        "loaded = {'flax', 'jaxtyping', 'orbax', 'grain'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    root = README.parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=180)
