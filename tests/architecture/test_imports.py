"""Who may import whom, read off the syntax tree of every file."""

import subprocess
import sys
from collections.abc import Collection
from typing import NamedTuple

import pytest
import source_trees
from source_trees import ROOT


class Room(NamedTuple):
    """The rooms of ours that a room may import beside itself, and the third-party packages."""

    ours: Collection[str]
    libraries: Collection[str] = ()


_ARRAYS = {"jax", "numpy", "jaxtyping"}
_SERVER = {"starlette", "uvicorn"}
ROOMS = {
    "pallas_kernels": Room(set(), {"jax", "numpy"}),
    "kanana_jax/batch.py": Room(set(), {"numpy"}),
    "kanana_jax/errors.py": Room(set()),
    "kanana_jax/extras.py": Room(set()),
    "kanana_jax/korean.py": Room(set()),
    "kanana_jax/config": Room({"errors"}),
    "kanana_jax/optim": Room(set(), {"jax", "optax", "numpy"}),
    "kanana_jax/parallel": Room({"config", "pallas_kernels"}, {"jax", "numpy"}),
    "kanana_jax/model": Room(
        {"batch", "config", "optim.specs", "parallel", "pallas_kernels"}, {*_ARRAYS, "flax"}
    ),
    "kanana_jax/objectives": Room({"batch"}, _ARRAYS),
    "kanana_jax/data": Room(
        {"batch", "config", "errors", "extras", "korean"},
        {
            *("numpy", "jaxtyping", "grain", "tensorstore", "tokenizers", "pyarrow", "fsspec"),
            *("jinja2", "ftfy", "py3langid", "datatrove", "PIL"),
        },
    ),
    "kanana_jax/rollouts": Room(
        {"batch", "config", "data", "errors", "extras", "generate", "korean"},
        {"numpy", "jaxtyping", "reasoning_gym", "PIL"},
    ),
    "kanana_jax/report": Room(
        set(), {"numpy", "scipy", "jaxtyping", "matplotlib", "jinja2", "tensorboardX", "tqdm"}
    ),
    "kanana_jax/laws": Room(
        {"config", "errors", "extras", "report"}, {*_ARRAYS, "matplotlib", "scipy"}
    ),
    "kanana_jax/checkpoint": Room(
        {"config", "errors", "parallel"}, {"jax", "numpy", "tensorstore"}
    ),
    "kanana_jax/weights": Room(
        {"checkpoint", "config", "extras", "model"},
        {"gguf", "jax", "numpy", "orbax", "ml_dtypes", "safetensors", "tensorstore"},
    ),
    "kanana_jax/train": Room(
        {"batch", "config", "model", "objectives", "optim", "parallel", "pallas_kernels"},
        {"jax", "jaxtyping", "optax"},
    ),
    "kanana_jax/workdir": Room({"checkpoint", "config", "errors", "parallel", "report"}, {"jax"}),
    "kanana_jax/plan": Room(
        {"config", "errors", "extras", "model", "objectives", "optim", "parallel", "train"},
        {"jax", "numpy", "matplotlib", "absl"},
    ),
    "kanana_jax/jobs": Room(
        {
            "batch",
            "checkpoint",
            "config",
            "data",
            "errors",
            "evaluate",
            "generate",
            "model",
            "objectives",
            "optim",
            "pallas_kernels",
            "parallel",
            "plan",
            "report",
            "rollouts",
            "speech",
            "surgery",
            "train",
            "weights",
            "workdir",
        },
        _ARRAYS,
    ),
    "kanana_jax/speech": Room(
        {"batch", "config", "data", "errors", "extras"},
        {*_ARRAYS, "optax", "scipy", "safetensors", "tokenizers", "espeakng_loader", "soundfile"},
    ),
    "kanana_jax/generate": Room(
        {
            *("checkpoint", "config", "data", "errors", "extras", "model", "parallel", "speech"),
            "weights",
        },
        {*_ARRAYS, *_SERVER, "absl", "llguidance", "matplotlib"},
    ),
    "kanana_jax/evaluate": Room(
        {
            *("batch", "checkpoint", "config", "data", "errors", "extras", "generate", "model"),
            *("rollouts", "speech", "weights"),
        },
        {*_ARRAYS, "scipy", "lm_eval", "tqdm"},
    ),
    "kanana_jax/synthesize": Room(
        {"config", "data", "errors", "extras", "rollouts"}, {"httpx2", "kiwipiepy", "tqdm"}
    ),
    "kanana_jax/convert.py": Room(
        {"checkpoint", "config", "errors", "extras", "surgery", "weights"}, {"absl", "tqdm"}
    ),
    "kanana_jax/coordinates.py": Room(
        {
            *("batch", "config", "data", "errors", "extras", "model", "objectives", "parallel"),
            *("report", "train"),
        },
        {*_ARRAYS, "optax"},
    ),
    "kanana_jax/fp8_check.py": Room(
        {
            *("batch", "config", "data", "errors", "extras", "jobs", "model", "parallel"),
            *("train", "weights"),
        },
        _ARRAYS,
    ),
    "kanana_jax/surgery.py": Room({"batch", "config", "data", "model", "plan", "weights"}, {"jax"}),
    "kanana_jax/__main__.py": Room(()),
    "kanana_jax/compare.py": Room(("config", "errors", "extras", "jobs", "report", "workdir")),
    "kanana_jax/main.py": Room(
        {"config", "errors", "extras", "jobs", "model", "parallel", "workdir"}, {"absl"}
    ),
    "experiments": Room(
        {
            *("config", "data", "experiments", "jobs", "laws", "model", "plan.flops", "report"),
            *("rollouts", "synthesize"),
        },
        {"numpy", "matplotlib"},
    ),
}


def _files(room):
    path = ROOT / room
    return [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))


def _own(room):
    """The dotted name of a room, by which its own files may import each other."""
    return room.removesuffix(".py").replace("/", ".")


def _is_in(name, rooms):
    return any(f"{name}.".startswith(f"{room}.") for room in rooms)


def _violations(room, file, tree):
    """The imports of `file` that its room does not have, by name."""
    ours = {
        name if name in ("pallas_kernels", "experiments") else f"kanana_jax.{name}"
        for name in ROOMS[room].ours
    }
    allowed = {_own(room), *ours, *ROOMS[room].libraries, *sys.stdlib_module_names}
    return sorted(name for name in source_trees.imports(file, tree) if not _is_in(name, allowed))


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_only_what_it_may(room):
    files = _files(room)
    assert files
    found = {str(file): _violations(room, file, source_trees.tree(file)) for file in files}
    assert {file: names for file, names in found.items() if names} == {}


def test_every_file_lives_in_a_room():
    rooms = [ROOT / room for room in ROOMS]
    stray = [
        str(file.relative_to(ROOT))
        for top in ("kanana_jax", "pallas_kernels", "experiments")
        for file in (ROOT / top).rglob("*.py")
        if not any(room == file or room in file.parents for room in rooms)
    ]
    assert stray == ["kanana_jax/__init__.py"]


@pytest.mark.parametrize(
    ("package", "unwanted"),
    [
        ("kanana_jax.optim", "flax"),
        ("kanana_jax.config", "jax"),
        ("kanana_jax.config", "numpy"),
        ("kanana_jax.objectives", "flax"),
        ("kanana_jax.rollouts.calls", "numpy"),
        ("kanana_jax.rollouts.grading", "jax"),
        ("kanana_jax.rollouts.tasks", "numpy"),
        ("pallas_kernels", "kanana_jax"),
        ("pallas_kernels", "optax"),
    ],
)
def test_light_packages_stay_light(package, unwanted):
    code = f"import {package}, sys; assert {unwanted!r} not in sys.modules, 'loaded'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)
