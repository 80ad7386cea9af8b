"""Who may import whom, read off the syntax tree of every file."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Each room may import these rooms of ours, and these third-party packages beside its own.
_TRAIN_LIBRARIES = {"jax", "numpy", "optax", "flax", "jaxtyping", "orbax"}
ROOMS = {
    "pallas_kernels": (set(), {"jax", "numpy"}),
    "kanana_jax/optim": (set(), {"jax", "optax", "numpy"}),
    "kanana_jax/model": (
        {"config", "optim", "parallel", "pallas_kernels"},
        {"jax", "numpy", "flax", "jaxtyping"},
    ),
    "kanana_jax/data": (
        {"config"},
        {"jax", "numpy", "jaxtyping", "grain", "tensorstore", "tokenizers", "pyarrow", "fsspec"},
    ),
    "kanana_jax/report": (
        set(),
        {
            "jax",
            "numpy",
            "scipy",
            "jaxtyping",
            "matplotlib",
            "jinja2",
            "tensorboardX",
            "tqdm",
            "markupsafe",
        },
    ),
    "kanana_jax/checkpoint": (
        {"config", "model", "parallel"},
        {"jax", "numpy", "orbax", "ml_dtypes", "safetensors", "tensorstore"},
    ),
    "kanana_jax/generate": (
        {"config", "model", "parallel", "checkpoint", "data", "extras", "paths"},
        {"jax", "numpy", "jaxtyping", "absl", "jinja2", "starlette", "uvicorn", "lm_eval", "tqdm"},
    ),
    "kanana_jax/parallel": ({"config", "pallas_kernels"}, {"jax", "numpy"}),
    "kanana_jax/train": (
        {
            "config",
            "data",
            "model",
            "optim",
            "parallel",
            "checkpoint",
            "report",
            "pallas_kernels",
            "paths",
        },
        _TRAIN_LIBRARIES,
    ),
    "kanana_jax/plan": (
        {"config", "model", "optim", "parallel", "train", "extras", "paths"},
        {"jax", "numpy", "matplotlib", "absl"},
    ),
    "kanana_jax/config.py": ({"edits", "fields", "paths", "ranges"}, set()),
    "kanana_jax/config/edits.py": ({"fields"}, set()),
    "kanana_jax/extras.py": (set(), set()),
    "kanana_jax/config/fields.py": (set(), set()),
    "kanana_jax/config/paths.py": ({"fields"}, set()),
    "kanana_jax/config/ranges.py": ({"fields"}, set()),
    "kanana_jax/convert.py": ({"config", "checkpoint", "extras", "paths"}, {"absl", "tqdm"}),
    "kanana_jax/main.py": ({"config", "paths", "train", "extras"}, {"absl"}),
    "experiments": ({"config", "model", "experiments"}, set()),
}


def _files(room: str) -> list[Path]:
    path = ROOT / room
    if path.suffix == ".py":
        return [path]
    # Scripts of experiments/scripts stand on their own, like a user's.
    return [file for file in sorted(path.rglob("*.py")) if "scripts" not in file.parts]


def _imports(file: Path) -> set[tuple[str, ...]]:
    """Dotted names of every import in a file; `from a import b` counts as a.b."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import; write it from the top"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {tuple(name.split(".")) for name in names}


def _violations(room: str, file: Path) -> list[str]:
    ours, libraries = ROOMS[room]
    own = Path(room).stem
    found = []
    for name in _imports(file):
        top = name[0]
        if top in sys.stdlib_module_names:
            continue
        if top == "kanana_jax":
            allowed = len(name) > 1 and name[1] in ours | {own}
        elif top in ("pallas_kernels", "experiments"):
            allowed = top in ours | {own}
        else:
            allowed = top in libraries
        if not allowed:
            found.append(f"{file.relative_to(ROOT)} imports {'.'.join(name)}")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_only_what_it_may(room):
    files = _files(room)
    assert files
    assert [line for file in files for line in _violations(room, file)] == []


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
    [("kanana_jax.optim", "flax"), ("pallas_kernels", "kanana_jax"), ("pallas_kernels", "optax")],
)
def test_light_packages_stay_light(package, unwanted):
    code = f"import {package}, sys; assert {unwanted!r} not in sys.modules, 'loaded'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)
