"""What a working directory says of the processes that trained in it."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kanana_jax.report import page

PACKAGE = Path(record.__file__).parents[1]


def _git(folder, *arguments):
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.invalid"]
    answer = subprocess.run(
        ["git", "-C", folder, *identity, *arguments], capture_output=True, text=True, check=True
    )
    return answer.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A repository with one commit, and record's module as if it lay in `where` of it."""
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "commit", "-q", "--allow-empty", "-m", "first")

    def place(where):
        package = tmp_path / where / "kanana_jax"
        (package / "train").mkdir(parents=True)
        shutil.copy(PACKAGE / "__init__.py", package)
        return package / "train" / "record.py"

    return tmp_path, place


def test_the_commit_is_that_of_the_tree_that_the_package_is_of(repository, monkeypatch):
    root, place = repository
    monkeypatch.setattr(record, "__file__", str(place("")))
    monkeypatch.setenv("GIT_DIR", str(root / "elsewhere"))  # as in a hook of another repository
    assert record._commit() == "unknown"  # not tracked yet
    monkeypatch.delenv("GIT_DIR")
    _git(root, "add", ".")
    _git(root, "commit", "-q", "-m", "second")
    monkeypatch.setenv("GIT_DIR", str(root / "elsewhere"))
    monkeypatch.setattr(record.importlib.metadata, "distribution", None)  # would raise
    assert record._commit() == _git_head(root, monkeypatch)
    (root / "kanana_jax" / "__init__.py").write_text("changed = True\n")
    assert record._commit() == f"{_git_head(root, monkeypatch)}+changes"


def _git_head(root, monkeypatch):
    with monkeypatch.context() as patch:
        patch.delenv("GIT_DIR")
        return _git(root, "rev-parse", "--short=12", "HEAD")


@pytest.mark.parametrize("where", [".venv/lib/site-packages", "vendor"])
@pytest.mark.parametrize("is_tracked", [False, True])
def test_a_repository_around_the_installation_says_nothing(
    repository, where, is_tracked, monkeypatch
):
    root, place = repository
    monkeypatch.setattr(record, "__file__", str(place(where)))
    if is_tracked:
        _git(root, "add", "-f", ".")
        _git(root, "commit", "-q", "-m", "theirs")
    assert record._commit() == "unknown"


def test_an_installation_from_a_repository_knows_its_commit(tmp_path, monkeypatch):
    package = tmp_path / "kanana_jax"
    about = tmp_path / "kanana_jax-0.1.0.dist-info"
    (package / "train").mkdir(parents=True)
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: kanana_jax\nVersion: 0.1.0\n")
    origin = {"url": "https://x", "vcs_info": {"vcs": "git", "commit_id": "0123456789abcdef"}}
    (about / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.setattr(record, "__file__", str(package / "train" / "record.py"))
    monkeypatch.syspath_prepend(tmp_path)
    assert record._commit() == "0123456789ab"


def test_the_command_is_the_one_that_was_given(monkeypatch):
    given = ["/usr/bin/python3", "-m", "kanana_jax.main", "--set=data.paths=my text.txt"]
    monkeypatch.setattr(sys, "orig_argv", given)
    monkeypatch.setattr(sys, "argv", ["something", "else"])
    assert shlex.split(record._command()) == ["python3", *given[1:]]
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert record._command() == ""


def test_every_device_and_commit_that_trained_is_named_once(exp, tmp_path, monkeypatch):
    about = {"started": "now", "command": "", "python": "3.12", "versions": {"jax": "1"}}
    sessions = [("a", "1 x H100"), ("a", "1 x H100"), ("b", "1 x H100"), ("b", "8 x cpu")]
    for commit, device in sessions:
        one = about | {"commit": commit, "device": device}
        monkeypatch.setattr(record, "environment", lambda one=one: one)
        record.write(tmp_path, exp)
    # Only the report is made on the last one.
    monkeypatch.setattr(record, "environment", lambda: about | {"commit": "c", "device": "laptop"})
    record.write(tmp_path, exp, is_training=False)
    shown = dict(page.provenance(record.load(tmp_path)))
    assert shown["Device"] == "1 x H100; then 8 x cpu"
    assert shown["Commit"] == "a; then b"
    assert "Command" not in shown
