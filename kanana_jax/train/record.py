"""What a run directory says about how it was made: config.json and sessions.jsonl."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax

from kanana_jax import config

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorstore", "numpy")


def check(workdir: Path, exp: config.Experiment) -> list[str]:
    """The settings in which `exp` differs from the run in `workdir`, all in `resume.allow`.

    Raises ConfigError when there are others. Writes nothing.
    """
    path = workdir / "config.json"
    if not path.exists():
        return []
    saved = json.loads(path.read_text())
    wanted = json.loads(config.to_json(exp))
    if exp.model.vocab_size == 0:  # filled in from the tokenizer when the run began
        wanted["model"]["vocab_size"] = saved["model"]["vocab_size"]
    lines = config.diff(saved | {"resume": None}, wanted | {"resume": None})
    refused = [line for line in lines if not is_allowed(line.partition(":")[0], exp.resume.allow)]
    if refused:
        paths = ",".join(line.partition(":")[0] for line in refused)
        raise config.ConfigError(
            f"{workdir} holds a run of another configuration ({'; '.join(refused)}); choose "
            "another --workdir, give the same settings to continue it, or continue it with "
            f"these by --set=resume.allow={paths}"
        )
    return lines


def is_allowed(path: str, allow: tuple[str, ...]) -> bool:
    """Whether `resume.allow` names the setting at `path`, or a group that it is in."""
    return any(path == one or path.startswith(f"{one}.") for one in allow)


def check_data(workdir: Path, exp: config.Experiment, fingerprint: str) -> None:
    """Raises ConfigError when the run in `workdir` was begun with other tokens."""
    path = workdir / "data.json"
    begun_with = json.loads(path.read_text())["fingerprint"] if path.exists() else fingerprint
    if begun_with != fingerprint and not is_allowed("data.paths", exp.resume.allow):
        raise config.ConfigError(
            f"{workdir} was begun with data of fingerprint {begun_with}, got {fingerprint}: the "
            "text of data.paths or the tokenizer has changed; restore it, choose another "
            "--workdir, or continue on the new text by --set=resume.allow=data.paths"
        )


def write(
    workdir: Path, exp: config.Experiment, fingerprint: str = "", num_skipped: int = 0
) -> None:
    """Saves the configuration and what identifies the data; appends a line about this process."""
    workdir.mkdir(parents=True, exist_ok=True)
    write_whole(workdir / "config.json", config.to_json(exp))
    about_data = {"fingerprint": fingerprint, "skipped_lines": num_skipped}
    write_whole(workdir / "data.json", json.dumps(about_data))
    with (workdir / "sessions.jsonl").open("a") as file:
        file.write(json.dumps(environment()) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is either there whole or not at all, also when the process is killed."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def load(workdir: Path) -> dict[str, Any]:
    """The configuration under "config", and what is known of the newest process."""
    newest = (workdir / "sessions.jsonl").read_text().splitlines()[-1]
    return {"config": json.loads((workdir / "config.json").read_text()), **json.loads(newest)}


def environment() -> dict[str, Any]:
    """Commit, versions, device and command of this process."""
    devices, num_processes = jax.devices(), jax.process_count()
    several = f", {num_processes} processes" if num_processes > 1 else ""
    return {
        "started": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "command": " ".join(["python", "-m", "kanana_jax.main", *sys.argv[1:]]),
        "commit": _git_commit(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "device": f"{len(devices)} x {devices[0].device_kind}, {os.cpu_count()} CPU cores{several}",
    }


def _git_commit() -> str:
    """The commit of the source tree, "+changes" when it was edited, "unknown" outside git."""
    command = ["git", "describe", "--always", "--dirty=+changes", "--abbrev=12"]
    try:
        answer = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return answer.stdout.strip() if answer.returncode == 0 else "unknown"


def with_vocab(exp: config.Experiment, vocab_size: int) -> config.Experiment:
    """Fills in the tokenizer's vocabulary size, or checks it against the model's."""
    if exp.model.vocab_size == 0:
        model = dataclasses.replace(exp.model, vocab_size=vocab_size)
        return dataclasses.replace(exp, model=model)
    if exp.model.vocab_size < vocab_size:
        raise config.ConfigError(
            f"model.vocab_size = {exp.model.vocab_size} is smaller than the tokenizer's "
            f"{vocab_size}; raise it, or set it to 0 to take the tokenizer's"
        )
    return exp
