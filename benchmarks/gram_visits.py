"""How many rows of a schedule the Gram form may take between one fresh R = X X^T and the next.

One line for each schedule, spectrum and way of cutting the five rows into visits of X: the
relative error against the direct form in float32, and the largest singular value, both with
completed squares, as on XLA alone, and with sums whose upper half is mirrored, as by a kernel.
Iterates are float16, as on a GPU; matrices are 192 x 512 with random singular vectors.

    python -m benchmarks.gram_visits
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl import app

import pallas_kernels
from kanana_jax import optim

SIZE, NUM_COLS = 192, 512
CUTS = ((1, 1, 1, 1, 1), (2, 2, 1), (2, 3), (3, 2))
SPECTRA = {
    "three decades": np.geomspace(1.0, 1e-3, SIZE),
    "one large, tail 0.03": np.r_[1.0, np.full(SIZE - 1, 0.03)],
    "one large, tail 0.01": np.r_[1.0, np.full(SIZE - 1, 0.01)],
    "power law": 1.0 / np.arange(1, SIZE + 1),
    "half small": np.r_[np.ones(SIZE // 2), np.full(SIZE - SIZE // 2, 0.01)],
}


def mirrored(*args, **factors):
    """What `pallas_kernels.symmetric_matmul` computes on a GPU, up to the order of sums."""
    result = pallas_kernels.symmetric_matmul(*args, implementation="reference", **factors)
    return jnp.triu(result) + jnp.triu(result, 1).mT


@functools.partial(jax.jit, static_argnames=("schedule", "cut", "dtype", "symmetric"))
def factor(x, schedule, cut, dtype, symmetric=None):
    """The polar factor with fresh Gram matrices where `cut` wants them."""
    return optim.polar(
        x, schedule, compute_dtype=dtype, method="gram", visits=cut, symmetric_product=symmetric
    )


def with_spectrum(values):
    rng = np.random.default_rng(0)
    left = np.linalg.qr(rng.standard_normal((SIZE, SIZE)))[0]
    right = np.linalg.qr(rng.standard_normal((NUM_COLS, SIZE)))[0]
    return jnp.asarray(left * values @ right.T, jnp.float32)


def main(_):
    schedules = {"Jordan": optim.newton_schulz(5), "Polar Express": optim.POLAR_EXPRESS_5}
    columns = "XLA:  error  largest  kernel: error  largest"
    print(f"{'schedule':14s}  {'spectrum':20s}  {'rows per visit':14s}  {columns}")
    for name, schedule in schedules.items():
        for label, values in SPECTRA.items():
            x = with_spectrum(values)
            want = factor(x, schedule, CUTS[0], jnp.float32)
            for cut in CUTS:
                text = f"{name:14s}  {label:20s}  {' '.join(map(str, cut)):14s}"
                for symmetric in (None, mirrored):
                    got = factor(x, schedule, cut, jnp.float16, symmetric)
                    error = float(jnp.linalg.norm(got - want) / jnp.linalg.norm(want))
                    largest = np.linalg.svd(got, compute_uv=False).max()
                    text += f"  {error:{11 if symmetric is None else 13}.4f}  {largest:7.3f}"
                print(text)


if __name__ == "__main__":
    app.run(main)
