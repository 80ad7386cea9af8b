"""Times every configuration of the Hopper kernels and prints the rows of `dispatch.TUNED`.

    python -m pallas_kernels.flash_attention.gpu.tune 192,128 128,128

Each pair is D,U: the width of queries and keys, and of values. Causal bf16, 4 x 4096, 32 heads.
"""

import functools
import itertools
import statistics
import sys
import time

import jax
import jax.numpy as jnp

from pallas_kernels.flash_attention.gpu import backward as bwd
from pallas_kernels.flash_attention.gpu import dispatch
from pallas_kernels.flash_attention.gpu import forward as fwd

BATCH, LENGTH, HEADS = 4, 4096, 32


def candidates() -> tuple[list[fwd.Config], list[bwd.Config]]:
    """Forward and backward configurations worth timing; some do not fit every width."""
    forward = [fwd.Config(*sizes) for sizes in ((128, 2), (128, 3), (64, 2), (64, 3), (64, 4))]
    fused = [bwd.Config(is_fused=True, num_stages=n) for n in (1, 2, 3)]
    depths = itertools.product((1, 2, 3), (2, 3))
    split = [bwd.Config(False, num_stages=n, dq_num_stages=m) for n, m in depths]
    return forward, fused + split


def best_config(width: int, width_v: int) -> dispatch.Config:
    """The fastest forward configuration, then the fastest backward one to go with it."""
    keys = jax.random.split(jax.random.key(0), 4)
    shape = (BATCH, LENGTH, HEADS)
    q, k = (jax.random.normal(key, (*shape, width), jnp.bfloat16) for key in keys[:2])
    v, dout = (jax.random.normal(key, (*shape, width_v), jnp.bfloat16) for key in keys[2:])
    forwards, backwards = candidates()
    configs = [dispatch.Config(forward=c) for c in forwards]
    best = min(configs, key=lambda c: _time(functools.partial(_attend, c), q, k, v))
    if width + width_v > dispatch.MAX_BACKWARD_WIDTH:
        return best
    configs = [best._replace(backward=c) for c in backwards]
    return min(configs, key=lambda c: _time(functools.partial(_gradients, c), q, k, v, dout))


def _attend(config, q, k, v):
    scale = q.shape[3] ** -0.5
    return dispatch.attention(q, k, v, None, None, causal=True, scale=scale, config=config)


def _gradients(config, q, k, v, dout):
    _, pullback, max_logits = jax.vjp(functools.partial(_attend, config), q, k, v, has_aux=True)
    return max_logits, pullback(dout)


def _time(function, *args, repeats=7, calls=10) -> float:
    """Seconds per call, the median of `repeats`; infinite if the configuration does not fit."""
    try:
        function = jax.jit(function)
        jax.block_until_ready(function(*args))
    except ValueError as error:
        print(f"  does not fit: {str(error).splitlines()[0]}")
        return float("inf")
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        outs = [function(*args) for _ in range(calls)]
        jax.block_until_ready(outs[-1])
        times.append((time.perf_counter() - start) / calls)
        del outs
    print(f"  {statistics.median(times) * 1e3:.3f} ms")
    return statistics.median(times)


def main(pairs: list[str]) -> None:
    """Tunes each D,U pair on the default device."""
    kind = jax.devices()[0].device_kind
    for pair in pairs:
        width, width_v = map(int, pair.split(","))
        print(f"{(kind, width, width_v)!r}: {best_config(width, width_v)!r},", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
