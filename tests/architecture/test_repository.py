"""The repository's own files agree with each other."""

import re
import subprocess
import tomllib
from pathlib import Path

import source_trees

ROOT = Path(__file__).parents[2]


def test_requirements_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {*project["dependencies"], *extras["train"], *extras["serve"], *extras["test"]}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert {line for line in lines if line and not line.startswith("#")} == wanted


def test_every_dependency_has_an_upper_bound():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    assert [line for group in groups for line in group if "<" not in line] == []


def test_every_dependency_earns_a_line_in_build_md():
    text = (ROOT / "BUILD.md").read_text()
    names = [
        re.split(r"[<>=\[]", line)[0]
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_the_oldest_versions_leave_out_what_imports_none_of_them():
    """Themselves, and not through other packages, whose tests run there."""
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    pinned = {re.split(r"[=-]", line)[0] for line in lines if not line.startswith("#")}
    assert pinned == {"flax", "jax", "jaxlib", "orbax"}
    (names,) = re.findall(r"^WITHOUT_JAX := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for name in names.split():
        assert any((ROOT / "tests" / name).glob("test_*.py"))
        for folder in (ROOT / name, ROOT / "kanana_jax" / name, ROOT / "tests" / name):
            for file in folder.rglob("*.py"):
                found = {module.split(".")[0] for module in source_trees.imports(file)}
                assert not found & pinned, file


def _tracked() -> list[str]:
    answer = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return answer.stdout.splitlines()


def test_the_tree_matches_the_disk():
    text = (ROOT / "docs/architecture.md").read_text().split("## Where things are")[1]
    tree = re.search(r"```text\n(.*?)```", text, re.DOTALL)
    assert tree is not None
    named = set()
    parent = ""
    for line in tree[1].splitlines():
        name = line.split()[0]
        if line.startswith(" "):
            named.add(parent + name)
        else:
            named.add(name)
            parent = name if name.endswith("/") else ""
    missing = {name for name in named if not (ROOT / name).exists()}
    assert missing == set()
    tops = {path.split("/")[0] + "/" for path in _tracked() if "/" in path}
    rooms = {
        "/".join(path.split("/")[:2]) + "/"
        for path in _tracked()
        if path.startswith(("kanana_jax/", "pallas_kernels/")) and path.count("/") > 1
    }
    hidden = {top for top in tops if top.startswith(".")}
    assert (tops | rooms) - hidden - named == set()


def test_no_large_file_is_tracked():
    limit = 600_000
    assert [path for path in _tracked() if (ROOT / path).stat().st_size > limit] == []


# What is Korean in them is Korean for what they do.
KOREAN = (
    "kanana_jax/korean.py",
    "kanana_jax/data/template_text/",
    "kanana_jax/rollouts/",
    "kanana_jax/synthesize/",
    "tests/",
)


def _without_hangul(text: str) -> str:
    return re.sub("[\uac00-\ud7a3]", "", text)


def test_source_is_ascii_but_for_korean_words():
    offenders = [
        path
        for path in _tracked()
        if path.endswith(".py")
        for text in [(ROOT / path).read_text(encoding="utf-8")]
        if not (_without_hangul(text) if path.startswith(KOREAN) else text).isascii()
    ]
    assert offenders == []
