"""Command line of the benchmark: see the package's docstring."""

import argparse
import datetime
import json
import os
import pathlib
import re
import subprocess
import sys

from pallas_kernels import bench
from pallas_kernels.bench import (
    attention,
    dense_fp8,
    fp8_tiles,
    grouped_matmul,
    grouped_matmul_fp8,
    moe,
    quantize,
    record,
    symmetric_matmul,
    timing,
    torch_peers,
)
from pallas_kernels.flash_attention import cases as attention_cases
from pallas_kernels.grouped_matmul import cases as matmul_cases
from pallas_kernels.moe_mlp import cases as moe_cases
from pallas_kernels.quantize import cases as quantize_cases
from pallas_kernels.symmetric_matmul import cases as symmetric_cases

OPS = {
    "attention": (attention.rows, attention_cases),
    "dense_fp8": (dense_fp8.rows, dense_fp8),
    "fp8_tiles": (fp8_tiles.rows, matmul_cases),
    "grouped_matmul": (grouped_matmul.rows, matmul_cases),
    "grouped_matmul_fp8": (grouped_matmul_fp8.rows, matmul_cases),
    "moe": (moe.rows, moe_cases),
    "quantize": (quantize.rows, quantize_cases),
    "symmetric_matmul": (symmetric_matmul.rows, symmetric_cases),
}
NUM_SMALL_CASES = 3  # on a CPU: enough to see that everything runs


def main(argv: list[str]) -> int:
    """Measures, prints and records; 1 if one of our own implementations failed."""
    options = _parse(argv)
    # PyTorch first: this process takes most of the GPU's memory once JAX starts.
    names = {op: _case_names(op, options.case) for op in options.ops}
    rows, versions = [], {}
    for op in options.ops:
        has_peer = names[op] and op in torch_peers.OPS
        from_torch, found = _torch_rows(op, names[op]) if has_peer else ([], {})
        versions |= found
        rows += from_torch
    where = record.environment(["python", "-m", "pallas_kernels.bench", *argv]) | versions
    print(bench.__doc__)
    print("\n".join(f"{key}: {value}" for key, value in where.items()), flush=True)
    path = options.out or _default_path(where["device"])
    for op in options.ops:
        measure, table = OPS[op]
        for case in table.CASES:
            if case.name in names[op]:
                rows += measure(case)
                shown = sorted((row for row in rows if row.case == case.name), key=_by_op)
                print("\n" + record.table(shown), flush=True)
                record.write(path, where, rows)  # after every case: a cut run leaves its results
    print(f"\nwrote {path}")
    return int(any(record.is_ours(row) and row.ms is None for row in rows))


def _parse(argv):
    parser = argparse.ArgumentParser(prog="python -m pallas_kernels.bench")
    parser.add_argument("ops", nargs="+", choices=sorted(OPS))
    parser.add_argument("--case", action="append", help="only this case; may be repeated")
    parser.add_argument(
        "--out", type=pathlib.Path, help="JSON file (default: in $OUT or benchmarks/)"
    )
    options = parser.parse_args(argv)
    known = {case.name for op in options.ops for case in OPS[op][1].CASES}
    if unknown := set(options.case or ()) - known:
        parser.error(f"unknown cases {sorted(unknown)}; known are {sorted(known)}")
    return options


def _case_names(op, wanted):
    table = OPS[op][1]
    if wanted:
        return [case.name for case in table.CASES if case.name in wanted]
    is_cpu = os.environ.get("JAX_PLATFORMS") == "cpu" or not record.has_accelerator()
    cases = table.SMALL_CASES[:NUM_SMALL_CASES] if is_cpu else table.BENCHMARK_CASES
    return [case.name for case in cases]


def _by_op(row):
    return row.op


def _torch_rows(op, names):
    command = [sys.executable, "-m", "pallas_kernels.bench.torch_peers", op, *names]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = f"failed: {(done.stderr.strip().splitlines() or [''])[-1][:160]}"
    else:
        answer = json.loads(done.stdout.splitlines()[-1])
        if "rows" in answer:
            return [timing.Row(*row) for row in answer["rows"]], answer["versions"]
        reason = answer["reason"]
    return [timing.Row(name, "-", "torch", None, None, reason) for name in names], {}


def _default_path(device: str) -> pathlib.Path:
    folder = pathlib.Path(os.environ.get("OUT", "benchmarks"))
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return folder / f"{slug}-{datetime.date.today().isoformat()}.json"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
