"""One table: every optimizer of the library through the same properties.

One compiled step per optimizer, so that a property costs milliseconds. Letters: see
`optimizer_cases`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from optimizer_cases import (
    MAX_LOGITS,
    OPTIMIZERS,
    D,
    H,
    K,
    L,
    case,
    example_grads,
    example_params,
    gaussian,
)

from kanana_jax import optim

# The sphere holds the norm it starts with, so it cannot reach every minimum.
_FREE = [name for name in OPTIMIZERS if name != "muon_hyperball"]
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
free_optimizer = pytest.mark.parametrize("name", _FREE)


def assert_trees_equal(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def shapes_of(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


gradient_of = functools.cache(lambda loss: jax.jit(jax.grad(loss)))
compiled = functools.cache(jax.jit)
add = jax.jit(optax.apply_updates)


def minimise(name, loss, start, lrs=(0.3, 0.03, 0.003), num_steps=100):
    """Follow a falling rate; return the losses at both ends."""
    this, grad = case(name), gradient_of(loss)
    params, state = start, this.make(0.0).init(start)
    for lr in np.repeat(lrs, num_steps // len(lrs)):
        quiet = jnp.zeros((L, H))
        updates, state = this.step(grad(params), state, params, lr, quiet)
        params = add(params, updates)
    return float(compiled(loss)(start)), float(compiled(loss)(params))


def quadratic(params):
    target = gaussian(0, 0.5)
    return sum(jnp.sum(jnp.square(params[n] - target[n])) for n in params)


def factorisation(params):
    wq, wk = (params[n].reshape(L, D, H * K) for n in ("wq", "wk"))
    target = jnp.stack([jnp.eye(D), jnp.diag(jnp.linspace(0.5, 2.0, D))])
    return jnp.sum(jnp.square(wq @ wk.mT - target)) + jnp.sum(jnp.square(params["bias"]))


def rosenbrock(params):
    valley = jnp.sum(jnp.square(params["wk"] - jnp.square(params["wq"])))
    return 10.0 * valley + jnp.sum(jnp.square(1.0 - params["wq"])) + jnp.sum(params["bias"] ** 2)


@every_optimizer
def test_updates_have_the_parameters_structure_and_dtype(name):
    this = case(name)
    updates, _ = this.step(example_grads(), this.state, this.params, 0.1)
    assert shapes_of(updates) == shapes_of(this.params)


@every_optimizer
def test_state_keeps_its_structure_shapes_and_dtypes(name):
    this = case(name)
    _, state = this.step(example_grads(), this.state, this.params, 0.1)
    assert jax.tree.structure(state) == jax.tree.structure(this.state)
    assert jax.tree.leaves(shapes_of(state)) == jax.tree.leaves(shapes_of(this.state))


@every_optimizer
def test_steps_do_not_retrace(name):
    this = case(name)
    state = this.state
    for seed in range(3):
        _, state = this.step(example_grads(seed), state, this.params, 0.1 * seed)
    assert this.num_traces == 1


@every_optimizer
def test_same_inputs_give_the_same_bits(name):
    this = case(name)
    arguments = (example_grads(), this.state, this.params, 0.1)
    assert_trees_equal(this.step(*arguments), this.step(*arguments))


@every_optimizer
def test_unknown_keywords_are_ignored(name):
    this = case(name)
    optimizer = this.make(0.1)
    jax.eval_shape(
        lambda g, s, p: optimizer.update(g, s, p, max_logits=MAX_LOGITS, loss=1.0, key=None),
        example_grads(),
        this.state,
        this.params,
    )


@every_optimizer
def test_zero_gradients_give_finite_updates(name):
    this = case(name)
    updates, _ = this.step(example_grads(scale=0.0), this.state, this.params, 0.1)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(updates))


@every_optimizer
@pytest.mark.parametrize("scale", [1e-20, 1e15])
def test_extreme_gradients_give_updates_of_ordinary_size(name, scale):
    this = case(name)
    updates, _ = this.step(example_grads(scale=scale), this.state, this.params, 1e-3)
    # A rate of 1e-3 with at most moonlight's scale, sqrt(8) entries of 1, and the clip's half.
    largest = max(float(jnp.max(jnp.abs(u))) for u in jax.tree.leaves(updates))
    assert largest < 4.0


@every_optimizer
def test_step_is_proportional_to_the_learning_rate(name):
    this = case(name)
    quiet = jnp.zeros((L, H))
    one, _ = this.step(example_grads(), this.state, this.params, 1e-4, quiet)
    two, _ = this.step(example_grads(), this.state, this.params, 2e-4, quiet)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        # Weights of size 1 to 3 round to 2e-7, and Hyperball's arc bends by lr^2.
        np.testing.assert_allclose(b, 2 * a, rtol=1e-3, atol=2e-6)


@every_optimizer
def test_zero_learning_rate_leaves_the_weights_alone(name):
    this = case(name)
    updates, _ = this.step(example_grads(), this.state, this.params, 0.0, jnp.zeros((L, H)))
    for leaf in jax.tree.leaves(updates):
        np.testing.assert_allclose(leaf, 0.0, atol=1e-6)


@every_optimizer
def test_init_does_not_depend_on_the_learning_rate(name):
    this = case(name)
    assert_trees_equal(this.make(1.0).init(this.params), this.state)


@every_optimizer
def test_init_takes_a_traced_learning_rate_and_abstract_parameters(name):
    this = case(name)
    abstract = jax.eval_shape(lambda lr, p: this.make(lr).init(p), 0.1, this.params)
    assert jax.tree.structure(abstract) == jax.tree.structure(this.state)


@every_optimizer
def test_a_schedule_works_as_learning_rate(name):
    this = case(name)
    optimizer = this.make(optim.schedules.wsd(0.1, num_steps=10, decay_steps=2))
    state = jax.eval_shape(optimizer.init, this.params)
    assert jax.tree.structure(state) == jax.tree.structure(this.state)
    updates, _ = jax.eval_shape(
        lambda g, s, p: optimizer.update(g, s, p, max_logits=MAX_LOGITS),
        example_grads(),
        state,
        this.params,
    )
    assert jax.tree.structure(updates) == jax.tree.structure(this.params)


@every_optimizer
def test_state_survives_a_round_trip_through_the_host(name):
    this = case(name)
    _, state = this.step(example_grads(), this.state, this.params, 0.1)
    leaves, treedef = jax.tree.flatten(state)
    restored = treedef.unflatten([jnp.asarray(np.asarray(leaf)) for leaf in leaves])
    again = example_grads(seed=2)
    assert_trees_equal(
        this.step(again, restored, this.params, 0.1), this.step(again, state, this.params, 0.1)
    )


@every_optimizer
def test_bfloat16_parameters_keep_float32_state(name):
    this = case(name)
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), this.params)
    grads = params
    state = jax.eval_shape(this.make(0.1).init, params)
    updates, new_state = jax.eval_shape(
        lambda g, s, p: this.make(0.1).update(g, s, p, max_logits=MAX_LOGITS), grads, state, params
    )
    assert jax.tree.leaves(shapes_of(new_state)) == jax.tree.leaves(shapes_of(state))
    if name != "muon_bfloat16_momentum":
        assert not any(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(state))
    expected = jnp.float32 if name == "master_weights" else jnp.bfloat16
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(expected)}


@every_optimizer
@pytest.mark.parametrize("wrapper", ["chain", "partition", "MultiSteps", "inject_hyperparams"])
def test_works_inside_optax(name, wrapper):
    this = case(name)
    wrapped = {
        "chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), this.make(0.1)),
        "partition": lambda: optax.partition(
            {"all": this.make(0.1)}, jax.tree.map(lambda _: "all", this.params)
        ),
        "MultiSteps": lambda: optax.MultiSteps(this.make(0.1), 2),
        "inject_hyperparams": lambda: optax.inject_hyperparams(lambda lr: this.make(lr))(lr=0.1),
    }[wrapper]()
    state = jax.eval_shape(wrapped.init, this.params)
    updates, new_state = jax.eval_shape(
        lambda g, s, p: wrapped.update(g, s, p, max_logits=MAX_LOGITS),
        example_grads(),
        state,
        this.params,
    )
    assert shapes_of(updates) == shapes_of(this.params)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)


@every_optimizer
def test_state_memory_is_a_known_multiple_of_the_parameters(name):
    # Float32 copies per matrix entry: momentum or two moments, and what wrappers add.
    copies = {
        "adamw": 2, "adamw_with_decay": 2, "adamclip": 2, "muon_bfloat16_momentum": 0.5,
        "adamuon": 2, "averaged": 2, "master_weights": 2, "accumulated": 2,
    }  # fmt: skip
    wide = jax.ShapeDtypeStruct((L, 2048, H, K), jnp.float32)
    params = {"bias": jax.ShapeDtypeStruct((D,), jnp.float32), "wk": wide, "wq": wide}
    state = jax.eval_shape(case(name).make(0.1).init, params)
    state_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    matrix_bytes = 4 * (params["wk"].size + params["wq"].size)
    np.testing.assert_allclose(state_bytes / matrix_bytes, copies.get(name, 1), rtol=0.02)


@free_optimizer
def test_minimises_a_quadratic(name):
    before, after = minimise(name, quadratic, example_params())
    assert after < 0.04 * before


@free_optimizer
def test_minimises_a_matrix_factorisation(name):
    start = example_params(scale=0.3)
    before, after = minimise(name, factorisation, start)
    assert after < 0.1 * before


@free_optimizer
def test_descends_the_rosenbrock_valley(name):
    start = example_params(scale=0.3)
    before, after = minimise(name, rosenbrock, start, lrs=(0.5, 0.15, 0.05))
    assert after < 0.2 * before


def test_hyperball_keeps_every_matrix_norm_and_still_descends():
    start = example_grads()
    this, grad = case("muon_hyperball"), gradient_of(quadratic)
    params, state = start, this.make(0.0).init(start)
    for _ in range(30):
        updates, state = this.step(grad(params), state, params, 0.05)
        params = add(params, updates)
    assert compiled(quadratic)(params) < compiled(quadratic)(start)
    for name in ("wq", "wk"):
        norms = [jnp.linalg.norm(p[name].reshape(L, -1), axis=1) for p in (params, start)]
        np.testing.assert_allclose(*norms, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "adamw",
        "muon_polar_express_5",
        "muonclip",
        "normuon",
        "adamuon",
        "muon_hyperball",
        "guarded",
    ],
)
def test_updates_keep_the_parameters_sharding(name):
    this = case(name)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def place(leaf):
        axes = (None, "data") if leaf.ndim == 4 else ()
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*axes)))

    sharded = jax.tree.map(place, (example_grads(), this.state, this.params))
    updates, _ = this.step(*sharded, 0.1)
    expected, _ = this.step(example_grads(), this.state, this.params, 0.1)
    for got, leaf in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
        # The same sums in another order, then divided by a gaussian's smallest singular values.
        np.testing.assert_allclose(got, leaf, rtol=1e-3, atol=1e-5)
