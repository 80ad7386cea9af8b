"""Times configurations of the Hopper grouped products and prints rows of `dispatch.TUNED`.

    python -m pallas_kernels.grouped_matmul.gpu.tune kanana_2_30b_up wide_32_groups

Each argument is the name of a case, in bfloat16 with the group sizes that it draws. A case gives
two rows: one for its product, and one for its gradient in lhs.
"""

import functools
import statistics
import sys
import time

import jax
import jax.numpy as jnp

from pallas_kernels.grouped_matmul import cases
from pallas_kernels.grouped_matmul.gpu import dispatch, matmul, outer


def candidates() -> tuple[list[matmul.Config], list[outer.Config]]:
    """Configurations worth timing, for the product and for the outer product."""
    bands = [matmul.Config(band=band) for band in (4, 8, 16)]
    narrow = matmul.Config(tile_n=128, num_stages=6)
    return [*bands, narrow], [outer.Config(), outer.Config(tile_n=128, num_stages=6)]


def rows_of_table(case: cases.Case) -> dict[tuple, dispatch.Config]:
    """The fastest configurations for a case and for its gradient in lhs."""
    *arrays, group_sizes = cases.make_inputs(case)
    lhs, rhs, grad = (jnp.asarray(x, jnp.bfloat16) for x in arrays)
    rows = {}
    for left, right, is_transposed in ((lhs, grad, False), (grad, lhs, True)):
        matmuls, outers = candidates()
        product = functools.partial(_matmul, transpose_rhs=is_transposed)
        best = dispatch.Config(
            _fastest(product, matmuls, left, rhs, group_sizes),
            _fastest(_outer, outers, left, right, group_sizes),
        )
        rows[left.shape[1], right.shape[1], case.num_groups] = best
    return rows


def _matmul(config, lhs, rhs, group_sizes, *, transpose_rhs):
    return dispatch.matmul(
        lhs,
        rhs,
        group_sizes,
        transpose_rhs=transpose_rhs,
        out_dtype=lhs.dtype,
        config=dispatch.Config(matmul=config),
    )


def _outer(config, lhs, grad, group_sizes):
    config = dispatch.Config(outer=config)
    return dispatch.outer(lhs, grad, group_sizes, out_dtype=lhs.dtype, config=config)


def _fastest(product, configs, *args):
    return min(configs, key=lambda config: _time(functools.partial(product, config), *args))


def _time(function, *args, repeats=5, calls=10) -> float:
    """Seconds per call, the median of `repeats`."""
    function = jax.jit(function)
    jax.block_until_ready(function(*args))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        outs = [function(*args) for _ in range(calls)]
        jax.block_until_ready(outs[-1])
        times.append((time.perf_counter() - start) / calls)
        del outs
    print(f"  {statistics.median(times) * 1e3:.3f} ms", flush=True)
    return statistics.median(times)


def main(names: list[str]) -> None:
    """Tunes the named cases on the default device."""
    by_name = {case.name: case for case in cases.BENCHMARK_CASES}
    for name in names:
        for key, config in rows_of_table(by_name[name]).items():
            print(f"    {key!r}: {config!r},", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
