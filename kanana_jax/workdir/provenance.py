"""What a run directory says about how it was made: config.json, data.json and sessions.jsonl."""

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax

from kanana_jax import config
from kanana_jax.report import progress

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorstore", "numpy")


def check(workdir: Path, wanted: dict[str, Any], allow: tuple[str, ...]) -> list[str]:
    """The settings in which `wanted` differs from what ran in `workdir`; all of them may differ.

    `wanted` is the JSON form of a job's configuration; `allow` names settings or groups. Raises
    ConfigError when others differ. Writes nothing.
    """
    path = workdir / "config.json"
    if not path.exists():
        return []
    saved = json.loads(path.read_text())
    if "execution" in wanted and "execution" not in saved:
        raise config.ConfigError(
            f"{workdir} holds a run of an earlier version, which this one cannot continue; choose "
            "another --workdir, or turn its weights into a model folder with python -m "
            f"kanana_jax.convert --from-run={workdir}/run and start from that by train.init_from"
        )
    wanted = json.loads(json.dumps(wanted))  # lists for tuples, as in the file
    if wanted.get("model", {}).get("vocab_size") == 0:  # the tokenizer's, known since it began
        wanted["model"]["vocab_size"] = saved["model"]["vocab_size"]
    lines = config.diff(comparable(saved), comparable(wanted))
    refused = [line for line in lines if not is_allowed(line.partition(":")[0], allow)]
    if refused:
        # A setting that this version no longer has can be named by its group.
        known = (_known_part(line.partition(":")[0], wanted) for line in refused)
        paths = ",".join(dict.fromkeys(path for path in known if path))
        raise config.ConfigError(
            f"{workdir} holds a run of another configuration ({'; '.join(refused)}); choose "
            "another --workdir, give the same settings to continue it, or continue it with "
            f"these by --set=resume.allow={paths}"
        )
    return lines


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without the settings that change no result: how to resume, and where data are cached."""
    data = {key: value for key, value in settings.get("data", {}).items() if key != "cache_dir"}
    return {**settings, "resume": None, "data": data}


def _known_part(path: str, settings: dict[str, Any]) -> str:
    """The setting at `path`, or the innermost group around it that there is; else ""."""
    found: list[str] = []
    for name in path.split("."):
        if not isinstance(settings, dict) or name not in settings:
            break
        found, settings = [*found, name], settings[name]
    return ".".join(found)


def is_allowed(path: str, allow: tuple[str, ...]) -> bool:
    """Whether `resume.allow` names the setting at `path`, or a group that it is in."""
    return any(path == one or path.startswith(f"{one}.") for one in allow)


def check_data(
    workdir: Path, allow: tuple[str, ...], fingerprint: str, key: str = "fingerprint"
) -> None:
    """Raises ConfigError when the run in `workdir` was begun with other tokens.

    With the key "text", `fingerprint` is of the text, which is known before there are tokens.
    """
    path = workdir / "data.json"
    saved = json.loads(path.read_text()) if path.exists() else {}
    begun_with = saved.get(key, fingerprint)  # older runs do not have "text"
    if begun_with != fingerprint and not is_allowed("data.paths", allow):
        raise config.ConfigError(
            f"{workdir} was begun with data of {key} {begun_with}, got {fingerprint}: the "
            "text of data.paths or the tokenizer has changed; restore it, choose another "
            "--workdir, or continue on the new text by --set=resume.allow=data.paths"
        )


def write(
    workdir: Path,
    content: dict[str, Any],
    fingerprint: str = "",
    text: str = "",
    num_skipped: int = 0,
    *,
    is_training: bool = True,
) -> None:
    """Saves the configuration and what identifies the data; appends a line about this process.

    A process that only makes the report of what others trained gets no line next to theirs.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    write_whole(workdir / "config.json", json.dumps(content, indent=2))
    identity = {"fingerprint": fingerprint, "text": text}
    known = {key: value for key, value in identity.items() if value}
    write_whole(workdir / "data.json", json.dumps(known | {"skipped_lines": num_skipped}))
    path = workdir / "sessions.jsonl"
    if is_training or not path.exists():
        with path.open("a") as file:
            file.write(json.dumps(environment()) + "\n")


class Tokenizer(Protocol):
    """What is kept of a tokenizer; `json` is empty for bytes."""

    @property
    def json(self) -> str: ...
    @property
    def digest(self) -> str: ...


def write_tokenizer(workdir: Path, tokenizer: Tokenizer) -> str:
    """Keeps the tokenizer of the runs here; returns the name of its file, empty for bytes."""
    if not tokenizer.json:
        return ""
    name = f"tokenizer-{tokenizer.digest}.json"
    if not (workdir / name).exists():
        write_whole(workdir / name, tokenizer.json)
    return name


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is there whole or not at all, even when the process is killed."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def load(workdir: Path) -> dict[str, Any]:
    """The configuration under "config", and what is known of the processes that trained.

    Where they differ in command, commit or device, each is named.
    """
    lines = (workdir / "sessions.jsonl").read_text().splitlines()
    sessions = [json.loads(line) for line in lines]
    several = {
        key: "; then ".join(dict.fromkeys(one[key] for one in sessions if one.get(key)))
        for key in ("command", "commit", "device")
    }
    about = json.loads((workdir / "config.json").read_text())
    return {"config": about, **sessions[-1], **several}


def environment() -> dict[str, Any]:
    """Commit, versions, device and command of this process."""
    devices, num_processes = jax.devices(), jax.process_count()
    several = f", {num_processes} processes" if num_processes > 1 else ""
    return {
        "started": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "command": _command(),
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "device": f"{len(devices)} x {devices[0].device_kind}, {os.cpu_count()} CPU cores{several}",
    }


def _command() -> str:
    """The command that started this process; empty for the kernel of a notebook."""
    if progress.in_notebook() or not sys.orig_argv:
        return ""
    python, *arguments = sys.orig_argv
    return shlex.join([Path(python).name, *arguments])


def _commit() -> str:
    """The commit of this package, with "+changes" where it was edited; "unknown" without git.

    A repository that merely has this installation in one of its folders says nothing of it.
    """
    package = Path(__file__).parents[1]
    prefix = _git(package, "rev-parse", "--show-prefix")
    if prefix == f"{package.name}/" and _git(package, "ls-files", "__init__.py"):
        return _git(package, "describe", "--always", "--dirty=+changes", "--abbrev=12") or "unknown"
    return _installed_commit(package) or "unknown"


def _git(folder: Path, *arguments: str) -> str:
    # A hook of another repository has GIT_DIR and the like set for all it starts.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=folder, env=environ, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def _installed_commit(package: Path) -> str:
    """What pip noted when it installed the package from a repository."""
    try:
        installed = importlib.metadata.distribution(package.name)
    except importlib.metadata.PackageNotFoundError:
        return ""
    if Path(str(installed.locate_file(package.name))).resolve() != package.resolve():
        return ""  # another copy than the one that runs
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    return origin.get("vcs_info", {}).get("commit_id", "")[:12]
