"""pytest --first-cases, by which `make test-oldest` runs fewer tests."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE = """
import pytest

@pytest.mark.parametrize("case", [pytest.param(0, marks=pytest.mark.slow), 1, 2])
def test_of_cases(case): ...

def test_of_none(): ...

class TestGroup:
    @pytest.mark.parametrize("case", ["a", "b"])
    def test_of_cases(self, case): ...
"""


def test_each_function_is_run_once_with_a_case_that_the_marks_leave(tmp_path):
    (tmp_path / "test_sample.py").write_text(FILE)
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    command = [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider"]
    settings = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
    chosen = ["-m", "not slow", "--first-cases", str(tmp_path)]
    found = subprocess.run(
        [*command, *settings, *chosen], capture_output=True, text=True, cwd=tmp_path
    )
    assert found.returncode == 0, found.stdout + found.stderr
    names = [line.partition("::")[2] for line in found.stdout.splitlines() if "::" in line]
    assert names == ["test_of_cases[1]", "test_of_none", "TestGroup::test_of_cases[a]"]
