"""NorMuon, AdaMuon and Hyperball against their papers' equations in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kanana_jax import optim

LR, DECAY, BETA = 0.05, 0.1, 0.95
ROWS = optim.POLAR_EXPRESS_8.rows
SHAPE = (5, 9)  # inputs, outputs


def polar(x):
    x = x / np.linalg.norm(x)
    for a, b, c in ROWS:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def to_rms(x):
    return 0.2 * np.sqrt(x.size) * x / np.linalg.norm(x)


def normuon(w, grads):
    momentum, second = np.zeros(SHAPE), np.zeros((1, SHAPE[1]))
    for grad in grads:
        momentum = BETA * momentum + (1 - BETA) * grad
        factor = polar(momentum)
        # One number per output neuron: the mean over its inputs.
        second = BETA * second + (1 - BETA) * np.mean(factor**2, axis=0, keepdims=True)
        w = w - LR * (to_rms(factor / (np.sqrt(second) + 1e-8)) + DECAY * w)
        yield w


def adamuon(w, grads):
    momentum, second = np.zeros(SHAPE), np.zeros(SHAPE)
    for grad in grads:
        momentum = BETA * momentum + grad
        factor = polar(np.sign(BETA * momentum + grad))
        second = BETA * second + (1 - BETA) * factor**2
        w = w - LR * (to_rms(factor / (np.sqrt(second) + 1e-8)) + DECAY * w)
        yield w


def hyperball(w, grads):
    radius, momentum = np.linalg.norm(w), np.zeros(SHAPE)
    for grad in grads:
        momentum = BETA * momentum + grad
        factor = polar(BETA * momentum + grad)
        ahead = w - LR * radius * factor / np.linalg.norm(factor)
        w = radius * ahead / np.linalg.norm(ahead)
        yield w


_OPTIONS = {"schedule": optim.POLAR_EXPRESS_8, "compute_dtype": jnp.float32}
CASES = {
    "normuon": (normuon, optim.normuon, {"weight_decay": DECAY}),
    "adamuon": (adamuon, optim.adamuon, {"weight_decay": DECAY}),
    "hyperball": (hyperball, optim.muon_hyperball, {}),
}


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_variant_follows_its_papers_equations(name, transposed):
    reference, recipe, options = CASES[name]
    rng = np.random.default_rng(3)
    start = rng.standard_normal(SHAPE)
    grads = [rng.standard_normal(SHAPE) for _ in range(4)]
    # Stored (outputs, inputs), the same matrix must get the same update.
    spec = optim.MatrixSpec(rows=(1,), cols=(0,)) if transposed else optim.MatrixSpec()
    stored = np.transpose if transposed else np.asarray
    optimizer = recipe(LR, spec, **_OPTIONS, **options)
    params = jnp.asarray(stored(start), jnp.float32)
    state, step = optimizer.init(params), jax.jit(optimizer.update)
    for grad, expected in zip(grads, reference(start, grads), strict=True):
        updates, state = step(jnp.asarray(stored(grad), jnp.float32), state, params)
        params = optax.apply_updates(params, updates)
        # AdaMuon divides by entries near zero, which carry float32 noise of 1e-6 each.
        np.testing.assert_allclose(params, stored(expected), atol=2e-4)
