"""Muon's update against its equations in NumPy float64, and against optax and torch."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kanana_jax import optim

MU = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def gradients(num_steps=4, shape=(6, 10)):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for _ in range(num_steps)]


def numpy_newton_schulz(x, rows, norm_eps=0.0):
    """Rows of a quintic on a wide or tall matrix, in float64."""
    x = np.asarray(x, np.float64)
    flip = x.shape[0] > x.shape[1]
    x = x.T if flip else x
    x = x / (np.linalg.norm(x) + norm_eps)
    for a, b, c in rows:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if flip else x


def run(optimizer, grads, params, **extra):
    """Apply one gradient after the other; return all parameters."""
    state, history = optimizer.init(params), []
    step = jax.jit(lambda g, s, p: optimizer.update(g, s, p, **extra))
    for grad in grads:
        updates, state = step(grad, state, params)
        params = optax.apply_updates(params, updates)
        history.append(params)
    return history


@pytest.mark.parametrize("nesterov", [True, False])
def test_updates_follow_the_equations(nesterov):
    start = gradients(1)[0] + 1.0
    lr, decay, rows = 0.1, 0.1, optim.POLAR_EXPRESS_5.rows
    optimizer = optim.muon(
        lr, nesterov=nesterov, momentum=MU, weight_decay=decay, compute_dtype=jnp.float32
    )
    got = run(optimizer, gradients(), jnp.asarray(start))
    momentum, w = np.zeros(start.shape), start.astype(np.float64)
    for step, grad in enumerate(gradients()):
        momentum = MU * momentum + grad
        factor = numpy_newton_schulz(MU * momentum + grad if nesterov else momentum, rows)
        w = w - lr * (0.2 * np.sqrt(10) * factor + decay * w)
        # float32 products through five rows that amplify by up to 8.
        np.testing.assert_allclose(got[step], w, atol=1e-5)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("moonlight", 0.2 * 20**0.5),
        ("keller_jordan", 2.0),
        ("spectral", 2.0),
        ("none", 1.0),
        (lambda fan_in, fan_out: fan_in / 10, 0.5),
    ],
)
def test_shape_rules_scale_by_fan_in_and_fan_out(rule, expected):
    scaler = optim.scale_by_shape(rule)
    ones = jnp.ones((5, 20))
    updates, _ = scaler.update(ones, scaler.init(ones))
    np.testing.assert_allclose(updates, np.full((5, 20), expected), rtol=1e-6)


def test_each_part_and_each_batch_entry_is_orthogonalised_alone():
    spec = optim.MatrixSpec(batch=(0,), rows=(1,), cols=(2,), split_axis=2, split_sizes=(3, 5))
    grad = jnp.asarray(gradients(1, (2, 4, 8))[0])
    optimizer = optim.scale_by_muon(
        polar_fn=lambda x: optim.polar(x, optim.POLAR_EXPRESS_8, compute_dtype=jnp.float32),
        specs=spec,
        momentum=MU,
        nesterov=False,
    )
    updates, _ = optimizer.update(grad, optimizer.init(grad))
    for part in (updates[0, :, :3], updates[1, :, :3], updates[0, :, 3:], updates[1, :, 3:]):
        values = np.linalg.svd(np.asarray(part), compute_uv=False)
        np.testing.assert_allclose(values, np.ones(values.size), atol=1e-3)


def test_momentum_dtype_is_kept_and_float32_is_the_default():
    params = {"w": jnp.ones((4, 6), jnp.bfloat16)}
    for dtype, expected in ((None, jnp.float32), (jnp.bfloat16, jnp.bfloat16)):
        state = optim.muon(0.1, momentum_dtype=dtype).init(params)
        assert optax.tree_utils.tree_get(state, "momentum")["w"].dtype == expected


def test_leaves_without_spec_go_to_adamw():
    params = {"bias": jnp.ones(3), "w": jnp.asarray(gradients(1, (3, 4))[0])}
    specs = {"bias": None, "w": optim.MatrixSpec()}
    options = {"weight_decay": 0.0}
    both = optim.muon(0.1, specs, **options)
    adamw = optim.adamw(0.1, **options)
    grads = jax.tree.map(jnp.sin, params)
    got, _ = both.update(grads, both.init(params), params)
    expected, _ = adamw.update(grads, adamw.init(params), params)
    np.testing.assert_allclose(got["bias"], expected["bias"], rtol=1e-6)
    assert not np.allclose(got["w"], expected["w"])


def test_adamw_agrees_with_optax():
    params = {"w": jnp.asarray(gradients(1)[0])}
    grads = [{"w": jnp.asarray(g)} for g in gradients()]
    ours = run(optim.adamw(0.1, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1), grads, params)
    theirs = run(optax.adamw(0.1, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1), grads, params)
    np.testing.assert_allclose(ours[-1]["w"], theirs[-1]["w"], rtol=1e-6)


def test_agrees_with_optax_contrib_muon_once_its_average_has_settled():
    # optax keeps a bias-corrected average of the gradients. With mu = 0.5 its factors are within
    # 2^-30 of constant after 30 steps, and the polar factor does not see a constant.
    mu, start = 0.5, jnp.asarray(gradients(1)[0])
    grads = [jnp.asarray(g) for g in gradients(32)]
    theirs = optax.contrib.muon(
        0.1, ns_coeffs=COEFFICIENTS, beta=mu, consistent_rms=0.2, weight_decay=0.1, eps=1e-30
    )
    ours = optim.muon(0.1, momentum=mu, schedule=optim.newton_schulz(), compute_dtype=jnp.float32)
    their_state, our_state = theirs.init(start), ours.init(start)
    their_update, our_update = jax.jit(theirs.update), jax.jit(ours.update)
    for step, grad in enumerate(grads):
        expected, their_state = their_update(grad, their_state, start)
        got, our_state = our_update(grad, our_state, start)
        if step == 0 or step >= 30:
            # The first step has no history, so it agrees as well.
            np.testing.assert_allclose(got, expected, atol=2e-6)


# torch iterates in bfloat16: about 2 % of an update of 0.1 * 0.63 per entry, over four steps.
_TORCH_TOLERANCE = 4 * 0.02 * 0.063
_TORCH_RULES = {
    "match_rms_adamw": "moonlight",
    # torch takes weights as (outputs, inputs), so its fan_out is our first axis.
    "original": lambda fan_in, fan_out: max(1.0, fan_in / fan_out) ** 0.5,
}


def like_torch(adjust_lr_fn):
    optimizer = optim.muon(
        0.1,
        schedule=optim.newton_schulz(),
        compute_dtype=jnp.float32,
        shape_rule=_TORCH_RULES[adjust_lr_fn],
    )
    return run(optimizer, [jnp.asarray(g) for g in gradients()], jnp.asarray(gradients(1)[0]))


@pytest.mark.parametrize("adjust_lr_fn", _TORCH_RULES)
def test_agrees_with_recorded_steps_of_torch_optim_muon(adjust_lr_fn):
    # Recorded with torch 2.13.0 on a CPU, by the loop of the next test.
    recorded = np.load(Path(__file__).with_name("torch_muon_2_13.npz"))[adjust_lr_fn]
    np.testing.assert_allclose(like_torch(adjust_lr_fn), recorded, atol=_TORCH_TOLERANCE)


@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="torch is not installed; `pip install torch` to compare with torch.optim.Muon",
)
@pytest.mark.parametrize("adjust_lr_fn", _TORCH_RULES)
def test_agrees_with_torch_optim_muon(adjust_lr_fn):
    import torch

    weight = torch.nn.Parameter(torch.tensor(gradients(1)[0]))
    theirs = torch.optim.Muon([weight], lr=0.1, adjust_lr_fn=adjust_lr_fn)
    for got, grad in zip(like_torch(adjust_lr_fn), gradients(), strict=True):
        weight.grad = torch.tensor(grad)
        theirs.step()
        np.testing.assert_allclose(got, weight.detach().numpy(), atol=_TORCH_TOLERANCE)


def test_specs_that_miss_a_leaf_raise_with_its_path():
    params = {"b": jnp.ones(3), "w": jnp.ones((3, 3))}
    with pytest.raises(ValueError, match=r"at 'b': .* names 2 axes"):
        optim.muon(0.1).init(params)
    scaler = optim.scale_by_muon(
        polar_fn=lambda x: x, specs={"b": None, "w": None}, momentum=MU, nesterov=True
    )
    with pytest.raises(ValueError, match=r"got none for \['b', 'w'\]"):
        scaler.init(params)
    with pytest.raises(ValueError, match="structure of the parameter tree"):
        optim.muon(0.1, {"w": optim.MatrixSpec()}).init(params)
    with pytest.raises(ValueError, match="shape rule must be one of"):
        optim.scale_by_shape("kimi")
