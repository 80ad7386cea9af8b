"""What the documents say exists, and what they show runs."""

import functools
import importlib.util
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import readme
from kanana_jax import main

ROOT = Path(__file__).parents[1]
LINES = {"README.md": 100, "BUILD.md": 120}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# A module of the user's that a document writes, or a package that a document installs.
_OF_OTHERS = ("pip", "pytest", "venv", "my_project", "lm_eval")
_TAKES_OTHERS_FLAGS = ("kanana_jax.evaluate.harness",)  # those of lm_eval


def _documents() -> list[Path]:
    answer = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in answer.stdout.splitlines()]


DOCUMENTS = _documents()


def _named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _commands(text: str) -> Iterator[list[str]]:
    """The words of every command line that a document shows."""
    shown = [body for kind, body in BLOCK.findall(text) if kind == "sh"]
    shown += re.findall(r"`((?:python -m|make) [^`]+)`", text)
    for line in "\n".join(shown).replace("\\\n", " ").splitlines():
        yield shlex.split(line, comments=True)


@pytest.mark.parametrize(("name", "limit"), LINES.items(), ids=LINES)
def test_a_front_page_is_short(name, limit):
    assert len((ROOT / name).read_text().splitlines()) <= limit


@pytest.mark.parametrize("path", DOCUMENTS, ids=_named)
def test_links_lead_to_what_is_there(path):
    text = re.sub(BLOCK, "", path.read_text())
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    local = [link.split("#")[0] for link in links if "://" not in link]
    assert [link for link in local if link and not (path.parent / link).exists()] == []


# Records keep the command that was given, of whatever commit.
@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path != readme.PAGE], ids=_named)
def test_commands_name_modules_targets_and_experiments_that_exist(path):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wrong = []
    for words in _commands(path.read_text()):
        if "-m" in words[:-1]:
            module = words[words.index("-m") + 1]
            if module.split(".")[0] not in _OF_OTHERS:
                wrong += [module] if importlib.util.find_spec(module) is None else _unknown(words)
        elif words[:1] == ["make"]:
            wrong += [word for word in words[1:2] if word not in targets]
    assert wrong == []


def _unknown(words: list[str]) -> list[str]:
    """Flags of a command that its module does not have, and experiments that are not there."""
    place = words.index("-m") + 1
    if words[place] in _TAKES_OTHERS_FLAGS:
        return []
    text, wrong = _sources(words[place]), []
    for word in words[place:]:
        flag, _, value = word.partition("=")
        if not flag.startswith("--"):
            continue
        name = flag.removeprefix("--")
        read = (f'"{name}"', f'"--{name}"', f"arguments.{name.replace('-', '_')}")
        if not any(one in text for one in read) and name != "help":
            wrong.append(word)
        if name == "experiment" and value.isidentifier() and value.islower():
            wrong += [] if value in main.experiment_names() else [word]
    return wrong


@functools.cache
def _sources(module: str) -> str:
    """What defines the flags of a command: its file, or those of its room."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    file = Path(spec.origin)
    parts = file.relative_to(ROOT).parts
    # Commands of a room share flags; those of a file at the top have their own.
    beside = [file] if len(parts) == 2 else ROOT.joinpath(*parts[:2]).rglob("*.py")
    return "\n".join(path.read_text() for path in beside)


EXAMPLES = [
    pytest.param(path, body, id=f"{_named(path)}-{number}")
    for path in (ROOT / "README.md", ROOT / "pallas_kernels/README.md")
    for number, (kind, body) in enumerate(BLOCK.findall(path.read_text()))
    if kind == "python"
]


@pytest.mark.parametrize(("path", "code"), EXAMPLES)
def test_an_example_runs_on_its_own(path, code):
    exec(compile(code, path.name, "exec"), {})


def test_there_are_examples_of_both_packages():
    assert len(EXAMPLES) == 3


def test_the_page_of_records_is_made_of_them():
    made = readme.page(readme.records())
    assert readme.PAGE.read_text() == made, "run python -m benchmarks.readme"
