"""What a working directory says of its runs: settings, data, and the processes that trained."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from kanana_jax import config, data
from kanana_jax.report import page
from kanana_jax.workdir import provenance

PACKAGE = Path(provenance.__file__).parents[1]


def _git(folder, *arguments):
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.invalid"]
    answer = subprocess.run(
        ["git", "-C", folder, *identity, *arguments], capture_output=True, text=True, check=True
    )
    return answer.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A repository with one commit, and provenance's module as if it lay in `where` of it."""
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "commit", "-q", "--allow-empty", "-m", "first")

    def place(where):
        package = tmp_path / where / "kanana_jax"
        (package / "workdir").mkdir(parents=True)
        shutil.copy(PACKAGE / "__init__.py", package)
        return package / "train" / "provenance.py"

    return tmp_path, place


def test_the_commit_is_that_of_the_tree_that_the_package_is_of(repository, monkeypatch):
    root, place = repository
    monkeypatch.setattr(provenance, "__file__", str(place("")))
    monkeypatch.setenv("GIT_DIR", str(root / "elsewhere"))  # as in a hook of another repository
    assert provenance._commit() == "unknown"  # not tracked yet
    monkeypatch.delenv("GIT_DIR")
    _git(root, "add", ".")
    _git(root, "commit", "-q", "-m", "second")
    monkeypatch.setenv("GIT_DIR", str(root / "elsewhere"))
    monkeypatch.setattr(provenance.importlib.metadata, "distribution", None)  # would raise
    assert provenance._commit() == _git_head(root, monkeypatch)
    (root / "kanana_jax" / "__init__.py").write_text("changed = True\n")
    assert provenance._commit() == f"{_git_head(root, monkeypatch)}+changes"


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
    monkeypatch.setattr(provenance, "__file__", str(place(where)))
    if is_tracked:
        _git(root, "add", "-f", ".")
        _git(root, "commit", "-q", "-m", "theirs")
    assert provenance._commit() == "unknown"


def test_an_installation_from_a_repository_knows_its_commit(tmp_path, monkeypatch):
    package = tmp_path / "kanana_jax"
    about = tmp_path / "kanana_jax-0.1.0.dist-info"
    (package / "workdir").mkdir(parents=True)
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: kanana_jax\nVersion: 0.1.0\n")
    origin = {"url": "https://x", "vcs_info": {"vcs": "git", "commit_id": "0123456789abcdef"}}
    (about / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.setattr(provenance, "__file__", str(package / "train" / "provenance.py"))
    monkeypatch.syspath_prepend(tmp_path)
    assert provenance._commit() == "0123456789ab"


def test_the_command_is_the_one_that_was_given(monkeypatch):
    given = ["/usr/bin/python3", "-m", "kanana_jax.main", "--set=data.paths=my text.txt"]
    monkeypatch.setattr(sys, "orig_argv", given)
    monkeypatch.setattr(sys, "argv", ["something", "else"])
    assert shlex.split(provenance._command()) == ["python3", *given[1:]]
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert provenance._command() == ""


def test_every_device_and_commit_that_trained_is_named_once(tmp_path, monkeypatch):
    about = {"started": "now", "command": "", "python": "3.12", "versions": {"jax": "1"}}
    sessions = [("a", "1 x H100"), ("a", "1 x H100"), ("b", "1 x H100"), ("b", "8 x cpu")]
    for commit, device in sessions:
        one = about | {"commit": commit, "device": device}
        monkeypatch.setattr(provenance, "environment", lambda one=one: one)
        provenance.write(tmp_path, {})
    # Only the report is made on the last one.
    laptop = about | {"commit": "c", "device": "laptop"}
    monkeypatch.setattr(provenance, "environment", lambda: laptop)
    provenance.write(tmp_path, {}, is_training=False)
    shown = dict(page.provenance(provenance.load(tmp_path)))
    assert shown["Device"] == "1 x H100; then 8 x cpu"
    assert shown["Commit"] == "a; then b"
    assert "Command" not in shown


def as_json(cfg):
    return json.loads(config.to_json(cfg))


def test_a_directory_of_another_configuration_is_refused(cfg, tmp_path):
    provenance.write(tmp_path, as_json(cfg.with_vocab(258)))
    before = (tmp_path / "config.json").read_text()
    assert provenance.check(tmp_path, as_json(cfg), ()) == []
    other = cfg.edited(["optimizer.tau=7"])
    with pytest.raises(config.ConfigError, match=r"optimizer\.tau: 0\.5 -> 7\.0"):
        provenance.check(tmp_path, as_json(other), ())
    assert (tmp_path / "config.json").read_text() == before


def test_allowed_settings_may_differ_and_are_named(cfg, tmp_path):
    provenance.write(tmp_path, as_json(cfg))
    longer = as_json(cfg.edited(["train.num_steps=9", "mesh.fsdp=2", "resume.allow=mesh"]))
    message = r"\(train.num_steps: 12 -> 9\).*resume.allow=train.num_steps$"
    with pytest.raises(config.ConfigError, match=message):
        provenance.check(tmp_path, longer, ("mesh",))
    changes = provenance.check(tmp_path, longer, ("mesh", "train.num_steps"))
    assert changes == ["mesh.fsdp: 1 -> 2", "train.num_steps: 12 -> 9"]
    provenance.write(tmp_path, longer)
    assert provenance.check(tmp_path, longer, ()) == []


def test_a_run_may_go_on_with_another_cache_of_its_data(cfg, tmp_path):
    provenance.write(tmp_path, as_json(cfg))
    moved = cfg.edited(["data.cache_dir=elsewhere"])
    assert provenance.check(tmp_path, as_json(moved), ()) == []


def test_settings_beside_a_jobs_own_are_compared_too(cfg, tmp_path):
    """Those of a comparison: tuples here, lists in the file."""
    swept = as_json(cfg) | {"seeds": 2, "axes": ({"path": "optimizer.lr", "values": (0.1, 0.2)},)}
    provenance.write(tmp_path, swept)
    assert provenance.check(tmp_path, swept, ()) == []
    with pytest.raises(config.ConfigError, match=r"seeds: 2 -> 3.*resume\.allow=seeds"):
        provenance.check(tmp_path, swept | {"seeds": 3}, ())
    assert provenance.check(tmp_path, swept | {"seeds": 3}, ("seeds",)) == ["seeds: 2 -> 3"]


def test_a_setting_that_there_is_no_more_is_allowed_by_its_group(cfg, tmp_path):
    older = as_json(cfg)
    older["train"]["gone"] = 3
    provenance.write(tmp_path, older)
    with pytest.raises(config.ConfigError, match=r"train.gone: 3 -> None.*resume\.allow=train$"):
        provenance.check(tmp_path, as_json(cfg), ())
    assert provenance.check(tmp_path, as_json(cfg), ("train",)) == ["train.gone: 3 -> None"]


def test_a_run_of_an_earlier_version_is_refused_in_one_line_that_says_what_to_do(cfg, tmp_path):
    older = as_json(cfg)
    older["model"] |= older.pop("execution")
    (tmp_path / "config.json").write_text(json.dumps(older))
    with pytest.raises(config.ConfigError) as refused:
        provenance.check(tmp_path, as_json(cfg), ())
    said = str(refused.value)
    assert "\n" not in said
    assert "run of an earlier version" in said
    assert "choose another --workdir" in said
    assert f"kanana_jax.convert --from-run={tmp_path}/run" in said


def test_changed_text_is_refused_unless_allowed(cfg, text_file, tmp_path):
    """The settings are the same, the file of that name is not."""
    copy = tmp_path / "words.txt"
    copy.write_text(text_file.read_text())
    of_data = cfg.edited([f"data.paths={copy}"]).data

    def fingerprint():
        return data.open_corpus(of_data, tmp_path / "cache").fingerprint

    provenance.write(tmp_path, as_json(cfg), fingerprint())
    provenance.check_data(tmp_path, (), fingerprint())
    copy.write_text(text_file.read_text().replace("muon", "mu0n", 1))
    with pytest.raises(config.ConfigError, match="the tokenizer has changed"):
        provenance.check_data(tmp_path, (), fingerprint())
    provenance.check_data(tmp_path, ("data.paths",), fingerprint())


def test_what_a_run_says_of_itself(cfg, tmp_path):
    provenance.write(tmp_path, as_json(cfg))
    about = provenance.load(tmp_path)
    assert about["config"] == as_json(cfg)
    assert about["versions"]["jax"] == jax.__version__
    assert about["device"].startswith("8 x cpu")
