"""Peak host memory of conversions: a random model of about 1.5 GB both ways, and a mean of three.

    python -m benchmarks.convert_memory --shard-mib=400

Each conversion runs in a process of its own; its peak resident memory is compared with that of one
that only imports the package.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np

from kanana_jax.model import presets
from kanana_jax.weights import hf_config, hf_files, hf_names

_RUN = (
    "import re; from pathlib import Path; from kanana_jax.weights import hf, merge; {call}; "
    "print(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])"
)


def write_random(folder: Path, num_layers: int, shard_bytes: int) -> int:
    """A bfloat16 model with Kanana-2's smallest width; returns the bytes of its weights."""
    base = hf_config.to_hf(presets.kanana_2_width(256), {"max_position_embeddings": 64}, "bfloat16")
    fields = base | {"num_hidden_layers": num_layers, "n_routed_experts": 64}
    leaves = hf_names.leaves(hf_config.from_hf(fields))
    tensors = [tensor for leaf in leaves.values() for tensor in leaf.tensors]
    rng = np.random.default_rng(0)

    def dtype(tensor):
        return np.dtype(np.float32 if tensor.name.endswith("bias") else ml_dtypes.bfloat16)

    def numbers(tensor):
        return rng.standard_normal(tensor.shape, np.float32).astype(dtype(tensor))

    planned = [hf_files.Planned(t.name, t.shape, dtype(t)) for t in tensors]
    folder.mkdir()
    hf_files.write_shards(folder, planned, map(numbers, tensors), shard_bytes)
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    return sum(tensor.num_bytes for tensor in planned)


def peak_mib(call: str) -> float:
    command = [sys.executable, "-c", _RUN.format(call=call)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(answer.stdout.split()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--shard-mib", type=int, default=400)
    arguments = parser.parse_args()
    shard_bytes = arguments.shard_mib << 20
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        size = write_random(folder / "hf", arguments.layers, shard_bytes)
        largest = max(file.stat().st_size for file in (folder / "hf").iterdir())
        print(f"weights {size >> 20} MiB, largest shard {largest >> 20} MiB")
        start = peak_mib("pass")
        print(f"only importing: peak {start:.0f} MiB")
        for call in (
            f"hf.import_directory(Path({str(folder / 'hf')!r}), Path({str(folder / 'native')!r}))",
            f"hf.export_directory(Path({str(folder / 'native')!r}), "
            f"Path({str(folder / 'back')!r}), shard_bytes={shard_bytes})",
            f"merge.merge_folders([Path({str(folder / 'native')!r})] * 3, "
            f"Path({str(folder / 'mean')!r}))",
        ):
            peak = peak_mib(call)
            over = (peak - start) / (largest / 2**20)
            name = call.split("(")[0]
            print(f"{name}: peak {peak:.0f} MiB, start plus {over:.2f} times the largest shard")
        _compare(folder / "hf", folder / "back")


def _compare(one: Path, other: Path) -> None:
    """Every tensor of the two folders, one at a time, byte by byte."""
    before, after = hf_files.read_headers(one), hf_files.read_headers(other)
    differing = [
        name
        for name in before.keys() | after.keys()
        if before[name].read().tobytes() != after[name].read().tobytes()
    ]
    print(f"{len(before)} tensors, {len(differing)} of them changed")


if __name__ == "__main__":
    main()
