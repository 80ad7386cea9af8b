"""How far each schedule is from the polar factor, and what bfloat16 costs.

    error = |polar(X) - U V^T|_F / |U V^T|_F        X = U S V^T

Spectra: `gaussian` is a 256 x 512 matrix of independent entries; the `momentum` ones are Muon's
momentum after 60 steps of a small two-layer network on a synthetic regression. Its query-sized
layer is nearly of low rank, as momentum is in practice. Prints a Markdown table.

    python -m benchmarks.polar_error_table
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kanana_jax import optim

SCHEDULES = (
    optim.newton_schulz(5),
    optim.newton_schulz(10),
    optim.cans(),
    optim.modded_nanogpt(),
    optim.polar_express(4),
    optim.polar_express(5),
    optim.polar_express(6),
    optim.polar_express(8),
    optim.deepseek_v4(),
    optim.turbo_muon(),
    optim.polar_express(4, lower=1e-2, precondition="aol"),
)
DTYPES = (jnp.float32, jnp.float16, jnp.bfloat16)


def momentum_matrices(num_steps: int = 60) -> dict[str, jax.Array]:
    """Train a little network with Muon and return its momentum buffers."""
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "momentum, first layer": jax.random.normal(keys[0], (128, 256)) * 128**-0.5,
        "momentum, second layer": jax.random.normal(keys[1], (256, 64)) * 256**-0.5,
    }
    inputs_BD = jax.random.normal(keys[2], (2048, 128)) * jnp.geomspace(1.0, 1e-2, 128)
    targets_BD = jnp.sin(3.0 * inputs_BD @ jax.random.normal(keys[3], (128, 64)))

    def loss(params, rows):
        hidden_BF = jax.nn.relu(inputs_BD[rows] @ params["momentum, first layer"])
        return jnp.mean(jnp.square(hidden_BF @ params["momentum, second layer"] - targets_BD[rows]))

    optimizer = optim.muon(0.02, weight_decay=0.0)

    @jax.jit
    def step(params, state, key):
        rows = jax.random.randint(key, (256,), 0, 2048)
        updates, state = optimizer.update(jax.grad(loss)(params, rows), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for key in jax.random.split(jax.random.key(1), num_steps):
        params, state = step(params, state, key)
    return optax.tree_utils.tree_get(state, "momentum")


@functools.partial(jax.jit, static_argnames=("schedule", "dtype"))
def factor(x, schedule, dtype):
    return optim.polar(x, schedule, compute_dtype=dtype)


def relative_error(x: jax.Array, schedule: optim.PolarSchedule, dtype) -> float:
    u, s, vt = np.linalg.svd(np.asarray(x, np.float64), full_matrices=False)
    # Directions that float32 cannot tell from zero have no factor to speak of.
    known = s > 1e-6 * s[0]
    exact = u[:, known] @ vt[known]
    got = np.asarray(factor(x, schedule, dtype), np.float64)
    return float(np.linalg.norm(got - exact) / np.linalg.norm(exact))


def main():
    matrices = {"gaussian": jax.random.normal(jax.random.key(2), (256, 512))}
    matrices |= momentum_matrices()
    for name, x in matrices.items():
        s = np.linalg.svd(np.asarray(x, np.float64), compute_uv=False)
        s /= np.linalg.norm(s)
        print(f"\n{name}, {x.shape[0]} x {x.shape[1]}: ", end="")
        print(f"singular values {s[0]:.2g} to {s[-1]:.2g} of the norm\n")
        print("| schedule | steps | float32 | float16 | bfloat16 |\n|---|---|---|---|---|")
        for schedule in SCHEDULES:
            errors = [f"{relative_error(x, schedule, dtype):.3f}" for dtype in DTYPES]
            label = schedule.name + (", AOL" if schedule.precondition == "aol" else "")
            print(f"| {label} | {schedule.steps} | {' | '.join(errors)} |")


if __name__ == "__main__":
    main()
