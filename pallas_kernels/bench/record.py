"""What a table of times needs to be worth keeping: where, with what, and how it was measured."""

import importlib.metadata
import json
import pathlib
import subprocess
import sys

import jax

from pallas_kernels.bench import timing

PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "nvidia-cudnn-cu13",
            "nvidia-cudnn-cu12", "libtpu", "numpy", "torch", "tokamax")  # fmt: skip


def environment(command: list[str]) -> dict:
    """Commit, device, driver, CUDA and package versions."""
    device = jax.devices()[0]
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": " ".join(command),
        "commit": _output("git", "describe", "--always", "--dirty", "--abbrev=40"),
        "device": device.device_kind,
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "runtime": " ".join(
            device.client.platform_version.split()
        ),  # names the CUDA version on GPUs
        "packages": packages,
    }


def has_accelerator() -> bool:
    """Asks a separate process, so that this one does not take the GPU's memory yet."""
    program = "import jax; print(jax.default_backend())"
    return _output(sys.executable, "-c", program).rpartition("\n")[2] in ("gpu", "tpu")


def _output(*command: str) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=pathlib.Path(__file__).parent,
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def table(rows: list[timing.Row]) -> str:
    """Aligned columns; our rows say how many times as fast they are as their case's best peer."""
    lines = [("case", "op", "implementation", "ms", "TFLOP/s", "vs best peer")]
    for row in rows:
        figures = _figure(row.ms, 3), _figure(row.tflops, 1)
        remarks = [row.reason or ratio(row, rows)]
        if row.kept_bytes_per_token is not None:
            remarks.append(f"keeps {row.kept_bytes_per_token / 1e3:.1f} kB per token")
        if row.error is not None:
            remarks.append(f"error {row.error:.1e}")
        remark = ", ".join(filter(None, remarks))
        lines.append((row.case, row.op, row.implementation, *figures, remark))
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    return "\n".join(_aligned(line, widths) for line in lines)


def _figure(value, digits):
    if value is None:
        return "-"
    return f"{value:.3g}" if value < 1 else f"{value:.{digits}f}"


def _aligned(line, widths):
    names = [cell.ljust(width) for cell, width in zip(line[:3], widths[:3], strict=True)]
    figures = [cell.rjust(width) for cell, width in zip(line[3:5], widths[3:], strict=True)]
    return "  ".join([*names, *figures, line[5]]).rstrip()


def ratio(row: timing.Row, rows: list[timing.Row]) -> str:
    """How many times as fast one of our rows is as the best peer of its case and op."""
    peers = [
        (other.ms, other.implementation)
        for other in rows
        if (other.case, other.op) == (row.case, row.op) and other.ms and _is_peer(other)
    ]
    if not is_ours(row) or not peers or not row.ms:
        return ""
    ms, name = min(peers)
    return f"{ms / row.ms:.3f} x {name}"


def is_ours(row: timing.Row) -> bool:
    """Whether a row measures this package."""
    return row.implementation.startswith("ours")


def _is_peer(row):
    return not row.implementation.startswith(("ours", "bound"))


def write(path: pathlib.Path, where: dict, rows: list[timing.Row]) -> None:
    """Writes the environment and all rows, including those without a time, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**where, "rows": [row._asdict() for row in rows]}
    path.write_text(json.dumps(content, indent=1) + "\n")
