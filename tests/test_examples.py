"""The examples of README.md run as they stand."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_both_packages_have_an_example():
    assert [re.search(r"kanana_jax|pallas_kernels", code)[0] for code in EXAMPLES] == [
        "kanana_jax",
        "pallas_kernels",
    ]


@pytest.mark.parametrize("code", EXAMPLES, ids=["optimizer", "kernels"])
def test_an_example_runs_on_its_own(code):
    exec(compile(code, README.name, "exec"), {})
