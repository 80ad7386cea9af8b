"""Where a compiled function spends its time on the device, by the name scopes of its source.

    times = kernel_times.measure(lambda: step(*args), compiled.as_text(), calls=3)
    kernel_times.by_scope(times, {"attention": "attention", "muon": "optimizer"})

Kernels that run inside a CUDA graph have no names: set
XLA_FLAGS=--xla_gpu_enable_command_buffer= (with nothing after the sign).
"""

import collections
import pathlib
import re
import tempfile
from collections.abc import Callable, Mapping

import jax


def measure(run: Callable[[], object], hlo_text: str, calls: int) -> dict[tuple[str, str], float]:
    """Milliseconds per call of each (kernel, op_name) on the first device, after one warm-up.

    op_name is the path of name scopes and functions that an operation comes from, and its own name
    in the compiled program where the compiler gives none, as for copies.
    """
    jax.block_until_ready(run())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(calls):
                jax.block_until_ready(run())
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
    op_names = dict(re.findall(r"%?([\w.-]+) = .*?op_name=\"([^\"]*)\"", hlo_text))
    times: dict[tuple[str, str], float] = collections.defaultdict(float)
    for plane in data.planes:
        if not re.fullmatch(r"/device:(GPU|TPU):0.*", plane.name):
            continue
        for line in plane.lines:
            if not line.name.startswith(("Stream", "XLA Ops")):
                continue
            for event in line.events:
                op = str(dict(event.stats).get("hlo_op", event.name))
                times[event.name, op_names.get(op, op)] += event.duration_ns / calls / 1e6
    return dict(times)


def print_slowest(times: Mapping[tuple[str, str], float], count: int = 40) -> None:
    """Prints the kernels of `measure` that take longest."""
    for (kernel, op_name), ms in sorted(times.items(), key=lambda item: -item[1])[:count]:
        print(f"{ms:9.4f} ms  {kernel[:60]:60s}  {op_name[-100:]}".rstrip(), flush=True)


def by_scope(times: Mapping[tuple[str, str], float], scopes: Mapping[str, str]) -> dict[str, float]:
    """Sums milliseconds by the first scope whose pattern is found in op_name; the rest is "other".

    `scopes` maps a label to a regular expression.
    """
    total: dict[str, float] = collections.defaultdict(float)
    for (_, op_name), ms in times.items():
        label = next((k for k, pattern in scopes.items() if re.search(pattern, op_name)), "other")
        total[label] += ms
    return {label: round(ms, 3) for label, ms in sorted(total.items(), key=lambda x: -x[1])}
