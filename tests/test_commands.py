"""`kanana-jax COMMAND` is `python -m MODULE` of a table."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kanana_jax import __main__ as command

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", command.COMMANDS)
def test_a_command_is_a_module_that_can_be_run(name):
    module, _ = command.COMMANDS[name]
    place = ROOT / module.replace(".", "/")
    file = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
    assert '__name__ == "__main__"' in file.read_text() or file.name == "__main__.py"


def test_every_module_that_runs_has_a_command():
    """But this one, and what a process of ours starts."""
    own = ("kanana_jax.__main__", "kanana_jax.rollouts.environments.running")
    found = set()
    for path in (ROOT / "kanana_jax").rglob("*.py"):
        if path.name == "__main__.py" or 'if __name__ == "__main__"' in path.read_text():
            found.add(".".join(path.relative_to(ROOT).with_suffix("").parts))
    modules = {module for module, _ in command.COMMANDS.values()}
    assert {name for name in found if name.removesuffix(".__main__") not in modules} <= set(own)


def test_help_names_every_command(capsys):
    assert command.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert [name for name in command.COMMANDS if f"  {name} " not in shown] == []


def test_a_command_that_is_none_is_one_line(capsys):
    assert command.main(["trane"]) == 2
    shown = capsys.readouterr().err
    assert "got 'trane'" in shown
    assert shown.count("\n") == 1


def test_flags_and_exit_codes_go_through():
    ran = subprocess.run(
        [sys.executable, "-m", "kanana_jax", "problems", "--family=chain_sum", "--count=0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 2
    assert "count" in ran.stderr


def test_the_installed_command_is_this_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"kanana-jax": "kanana_jax.__main__:main"}
