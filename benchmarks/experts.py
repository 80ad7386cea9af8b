"""Where a layer of experts spends its time on a device, without FP8 and with it.

The layer is that of `pallas_kernels.bench moe`: routed and shared experts, forward and backward.
For FP8 the matrices are made beforehand. Prints a JSON line for each precision, milliseconds by
kind of kernel; with --slowest the kernels too.

    XLA_FLAGS=--xla_gpu_enable_command_buffer= python -m benchmarks.experts
"""

import collections
import functools
import json
import re

import jax
import jax.numpy as jnp
from absl import app, flags

import pallas_kernels
from benchmarks import kernel_times
from pallas_kernels.bench import moe
from pallas_kernels.moe_mlp import cases
from pallas_kernels.moe_mlp.matrices import quantize_experts

_CASE = flags.DEFINE_string("case", "kanana_2_30b", "A case of pallas_kernels.moe_mlp.")
_CALLS = flags.DEFINE_integer("calls", 10, "Profiled calls.", lower_bound=1)
_SLOWEST = flags.DEFINE_integer("slowest", 0, "Kernels shown, the slowest first.", lower_bound=0)

# By the name of the kernel; the first pattern that fits counts.
KINDS = {
    "grouped products": r"grouped_matmul",
    "gradients of matrices": r"grouped_outer",
    "gathers of rows": r"take_rows|gather",
    "SwiGLU and casts": r"swiglu|quantize",
    "products of shared experts": r"nvjet|gemm|cutlass|xmma",
}


def main(_) -> None:
    named = [case for case in cases.CASES if case.name == _CASE.value]
    if not named:
        raise app.UsageError(f"--case must be one of {[case.name for case in cases.CASES]}")
    (case,) = named
    *arrays, ids, weights, dy = cases.make_inputs(case)
    arrays = [jnp.asarray(x, jnp.bfloat16) for x in arrays]
    inputs = *arrays, jnp.asarray(ids), jnp.asarray(weights)
    made = jax.jit(functools.partial(quantize_experts, dtype=jnp.bfloat16))(*arrays[1:])
    layers = {"full": (pallas_kernels.moe_mlp, None), "fp8": (moe.with_precision("fp8"), made)}
    for precision, layer in layers.items():
        _, (gradients, args) = moe.both(case, layer, inputs, jnp.asarray(dy, jnp.bfloat16))
        compiled = jax.jit(gradients).lower(*args).compile()
        run = functools.partial(compiled, *args)
        times = kernel_times.measure(run, compiled.as_text() or "", _CALLS.value)
        by_kind: dict[str, float] = collections.defaultdict(float)
        for (kernel, _), ms in times.items():
            by_kind[next((k for k, p in KINDS.items() if re.search(p, kernel)), "other")] += ms
        figures = {kind: round(ms, 3) for kind, ms in by_kind.items()}
        about = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
        line = {"case": case.name, "precision": precision, "ms": round(sum(by_kind.values()), 3)}
        print(json.dumps(line | {"by_kind": figures} | about), flush=True)
        kernel_times.print_slowest(times, _SLOWEST.value)


if __name__ == "__main__":
    app.run(main)
