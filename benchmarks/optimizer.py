"""Time one full optimizer step on a slice of Kanana-2-30B: ours, optax.contrib.muon and AdamW.

The slice is four mixture-of-experts layers at real width: 128 experts of 2048 x 768, multi-head
latent attention with 32 heads, no embeddings. All optimizers get the same gradients and parameters
(donated, so the update is in place); all Muons run five Newton-Schulz steps, and optax keeps its
momentum in the gradients' dtype. One JSON line per optimizer: median milliseconds of a step, and
the TFLOP/s that the multiplications of the plain iteration would be.

    python -m benchmarks.optimizer --dtype=bfloat16
    python -m benchmarks.optimizer --size=tiny --repeats=2
"""

import functools
import json
import statistics
import time

import jax
import jax.numpy as jnp
import optax
from absl import app, flags

import pallas_kernels
from benchmarks import kernel_times
from kanana_jax import optim

_SIZE = flags.DEFINE_enum("size", "kanana", ["kanana", "tiny"], "Width of the slice.")
_DTYPE = flags.DEFINE_enum(
    "dtype", "bfloat16", ["bfloat16", "float32"], "Dtype of parameters and gradients."
)
_REPEATS = flags.DEFINE_integer("repeats", 10, "Timed steps.", lower_bound=1)
_PROFILE = flags.DEFINE_bool("profile", False, "Also print the slowest kernels of each.")
_ONLY = flags.DEFINE_list("only", [], "Names of the optimizers to time; empty: all.")

SIZES = {
    "kanana": dict(L=4, D=2048, H=32, N=128, R=64, U=128, C=512, E=128, F=768, S=2),
    "tiny": dict(L=2, D=32, H=2, N=8, R=4, U=8, C=16, E=4, F=16, S=2),
}


def shapes_and_specs(L, D, H, N, R, U, C, E, F, S):
    """Return shapes of one layer stack and its matrices, kv_b and kv_a cut into parts."""
    matrix = optim.MatrixSpec
    table = {
        "wq": ((L, D, H, N + R), matrix(batch=(0,), rows=(1,), cols=(2, 3))),
        "wkv_a": (
            (L, D, C + R),
            matrix(batch=(0,), rows=(1,), cols=(2,), split_axis=2, split_sizes=(C, R)),
        ),
        "wkv_b": (
            (L, C, H, N + U),
            matrix(batch=(0,), rows=(1,), cols=(2, 3), split_axis=3, split_sizes=(N, U)),
        ),
        "wo": ((L, H, U, D), matrix(batch=(0,), rows=(1, 2), cols=(3,))),
        "experts_gate_up": ((L, E, 2, F, D), matrix(batch=(0, 1, 2), rows=(4,), cols=(3,))),
        "experts_down": ((L, E, F, D), matrix(batch=(0, 1), rows=(2,), cols=(3,))),
        "shared_gate_up": ((L, 2, S * F, D), matrix(batch=(0, 1), rows=(3,), cols=(2,))),
        "shared_down": ((L, S * F, D), matrix(batch=(0,), rows=(1,), cols=(2,))),
        "router": ((L, D, E), None),
        "norms": ((L, 2, D), None),
    }
    shapes = {name: shape for name, (shape, _) in table.items()}
    return shapes, {name: spec for name, (_, spec) in table.items()}


def optimizers(specs, clip_specs):
    """Return name -> optimizer. All Muons: five steps, the same scale, weight decay and rate."""
    jordan = optim.newton_schulz(5)
    ours = functools.partial(optim.muon, 1e-3, specs)
    with_kernel = functools.partial(
        optim.polar,
        schedule=jordan,
        compute_dtype=jnp.float16,
        symmetric_product=pallas_kernels.symmetric_matmul,
    )
    numbers = {
        name: spec and optax.contrib.MuonDimensionNumbers(spec.rows, spec.cols)
        for name, spec in specs.items()
    }
    return {
        "optax.contrib.muon": optax.contrib.muon(
            1e-3,
            weight_decay=0.1,
            adam_weight_decay=0.1,
            consistent_rms=0.2,
            muon_weight_dimension_numbers=numbers,
        ),
        "muon": ours(schedule=jordan),
        "muon_direct": ours(
            polar_fn=lambda x: optim.polar(x, jordan, method="direct"),
        ),
        "muon_float16": ours(schedule=jordan, compute_dtype=jnp.float16),
        "muon_polar_express": ours(),
        "muon_float16_bfloat16_momentum": ours(
            schedule=jordan, compute_dtype=jnp.float16, momentum_dtype=jnp.bfloat16
        ),
        "muon_kernel": ours(polar_fn=with_kernel),
        "muon_kernel_bfloat16_momentum": ours(polar_fn=with_kernel, momentum_dtype=jnp.bfloat16),
        "muonclip": optim.muonclip(1e-3, specs, clip_specs, schedule=jordan),
        "adamw": optim.adamw(1e-3),
        "optax.adamw": optax.adamw(1e-3, weight_decay=0.1),
    }


def make_step(optimizer, max_logits):
    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, grads):
        update = optax.with_extra_args_support(optimizer).update
        updates, state = update(grads, state, params, max_logits=max_logits)
        return optax.apply_updates(params, updates), state

    return step


def time_steps(step, params, state, grads, repeats: int) -> list[float]:
    """Return milliseconds of each step after one for compilation and one for warm-up."""
    times = []
    for _ in range(repeats + 2):
        jax.block_until_ready((params, state))
        start = time.perf_counter()
        params, state = step(params, state, grads)
        jax.block_until_ready((params, state))
        times.append(1e3 * (time.perf_counter() - start))
    return times[2:]


def print_slowest(step, params, state, grads, count: int = 30):
    """Print the kernels that take longest; return the parameters and state after these steps."""
    hlo_text = step.lower(params, state, grads).compile().as_text()

    def run():
        nonlocal params, state
        params, state = step(params, state, grads)
        return params

    kernel_times.print_slowest(kernel_times.measure(run, hlo_text, calls=2), count)
    return params, state


def plain_flops(shapes, specs) -> int:
    """Count the multiplications of the direct iteration, as the yardstick for all."""
    total = 0
    for name, spec in specs.items():
        for fan_in, fan_out in optim.fans(shapes[name], spec) if spec else ():
            size = jnp.prod(jnp.array([shapes[name][axis] for axis in spec.batch]))
            total += int(size) * optim.polar_flops(
                fan_in, fan_out, optim.newton_schulz(5), "direct"
            )
    return total


def main(_):
    letters = SIZES[_SIZE.value]
    shapes, specs = shapes_and_specs(**letters)
    clip = optim.QKClipSpec(layer_axis=0, head_axis=2, segments=((letters["N"], 0.5),))
    clip_specs = dict.fromkeys(specs) | {
        "wq": optim.QKClipSpec(
            layer_axis=0, head_axis=2, segments=((letters["N"], 0.5), (letters["R"], 1.0))
        ),
        "wkv_b": optim.QKClipSpec(
            layer_axis=0, head_axis=2, segments=(*clip.segments, (letters["U"], 0.0))
        ),
    }
    max_logits = jnp.full((letters["L"], letters["H"]), 200.0)
    dtype = jnp.dtype(_DTYPE.value)
    flops = plain_flops(shapes, specs)

    @jax.jit
    def random_tree(key):
        keys = jax.random.split(key, len(shapes))
        pairs = zip(keys, shapes.items(), strict=True)
        return {name: 0.02 * jax.random.normal(k, shape, dtype) for k, (name, shape) in pairs}

    grads = random_tree(jax.random.key(1))
    for name, optimizer in optimizers(specs, clip_specs).items():
        if _ONLY.value and name not in _ONLY.value:
            continue
        params = random_tree(jax.random.key(0))
        state = jax.jit(optimizer.init)(params)
        step = make_step(optimizer, max_logits)
        if _PROFILE.value:
            params, state = print_slowest(step, params, state, grads)
        times = time_steps(step, params, state, grads, _REPEATS.value)
        median = statistics.median(times)
        record = {
            "optimizer": name,
            "median_ms": round(median, 3),
            "min_ms": round(min(times), 3),
            "max_ms": round(max(times), 3),
            "plain_iteration_tflops_per_s": round(flops / median / 1e9, 1),
            "state_bytes": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)),
            "num_params": sum(x.size for x in jax.tree.leaves(params)),
            "dtype": dtype.name,
            "size": _SIZE.value,
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
        }
        print(json.dumps(record), flush=True)
        del params, state


if __name__ == "__main__":
    app.run(main)
