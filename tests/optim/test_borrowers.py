"""What users of optax do with optimizers: containers, descriptions, dtypes, injected numbers."""

import dataclasses
import functools
import itertools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kanana_jax import optim

pytestmark = pytest.mark.slow

M = optim.MatrixSpec
MAX_LOGITS = np.array([[200.0, 10.0]], np.float32)
SPECS = {"bias": None, "mlp": {"down": M(), "up": M()}, "wq": M(rows=(0,), cols=(1, 2))}
_Q = optim.QKClipSpec(layer_axis=None, head_axis=-2, segments=((4, 1.0),))
CLIP_SPECS = {"bias": None, "mlp": None, "wq": _Q}
MAKE = {
    "adamw": (optim.adamw, {}),
    "muon": (optim.muon, {"specs": SPECS}),
    "muonclip": (optim.muonclip, {"specs": SPECS, "clip_specs": CLIP_SPECS}),
    "normuon": (optim.normuon, {"specs": SPECS}),
    "adamuon": (optim.adamuon, {"specs": SPECS}),
    "muon_hyperball": (optim.muon_hyperball, {"specs": SPECS}),
}
WRAP = {
    "accumulate": lambda inner: optim.accumulate(inner, 2),
    "skip_bad_steps": optim.skip_bad_steps,
    "with_master_weights": optim.with_master_weights,
    "weight_average": lambda inner: optax.chain(inner, optim.weight_average()),
}
every_recipe = pytest.mark.parametrize("name", MAKE)


def example(dtype=np.float32):
    rng = np.random.default_rng(0)

    def draw(*shape):
        x = rng.standard_normal(shape)
        is_complex = np.issubdtype(dtype, np.complexfloating)
        return jnp.asarray(x + 1j * rng.standard_normal(shape) if is_complex else x, dtype)

    mlp = {"down": draw(6, 8), "up": draw(8, 6)}
    return {"bias": draw(8), "mlp": mlp, "wq": draw(8, 2, 4)}


def step(optimizer, params, state=None):
    state = optimizer.init(params) if state is None else state
    grads = jax.tree.map(lambda p: 0.1 * p + 0.1, params)
    return optimizer.update(grads, state, params, max_logits=MAX_LOGITS)


def assert_trees_equal(got, expected):
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@every_recipe
@pytest.mark.parametrize("kind", ["number", "schedule"])
def test_hyperparameters_can_be_injected(name, kind):
    recipe, specs = MAKE[name]
    lr = 0.1 if kind == "number" else optim.schedules.constant(0.1)
    injected = optax.inject_hyperparams(recipe)(lr=lr, **specs)
    state = injected.init(example())
    assert {"lr", "b1", "b2", "eps", "weight_decay"} <= state.hyperparams.keys()
    state.hyperparams["weight_decay"] = jnp.float32(0.0)
    updates, state = jax.eval_shape(functools.partial(step, injected), example(), state)
    assert jax.tree.structure(updates) == jax.tree.structure(example())


@pytest.mark.long
def test_an_injected_rate_and_decay_are_used():
    injected = optax.inject_hyperparams(optim.muonclip)(
        lr=0.1, specs=SPECS, clip_specs=CLIP_SPECS, tau=1e3
    )
    state = injected.init(example())
    state.hyperparams.update(lr=jnp.float32(0.2), weight_decay=jnp.float32(0.0))
    got, _ = step(injected, example(), state)
    expected, _ = step(optim.muon(0.2, SPECS, weight_decay=0.0), example())
    for one, other in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Linear:
    weight: object
    bias: object

    def __call__(self, x):
        return x @ self.weight + self.bias


def by_shape(tree):
    return jax.tree.map(lambda x: M() if x.ndim == 2 else None, tree)


LINEAR = {"bias": jnp.ones(3), "weight": jnp.eye(2, 3)}
CONTAINERS = {
    "dictionary": lambda x: x,
    "frozen": flax.core.freeze,
    "callable_dataclass": lambda x: Linear(**x),
    "nnx_state": lambda x: nnx.State({k: nnx.Param(v) for k, v in x.items()}),
    "list_with_none": lambda x: [x, None, (x["weight"],)],
}


@pytest.mark.parametrize(
    ("container", "described"),
    [
        *itertools.product(CONTAINERS, ["like_the_parameters", "function"]),
        *((container, "dictionary") for container in CONTAINERS if "list" not in container),
    ],
)
def test_specs_may_come_in_any_container(container, described):
    params = CONTAINERS[container](LINEAR)
    specs = {
        "like_the_parameters": by_shape(params),
        "function": by_shape,
        "dictionary": {"bias": None, "weight": M()},
    }[described]
    state = optim.muon(0.1, specs).init(params)
    momentum, moments = state.inner_states["matrices"], state.inner_states["others"]
    assert all(x.shape in ((2, 3), ()) for x in jax.tree.leaves(momentum))
    assert all(x.shape in ((3,), ()) for x in jax.tree.leaves(moments))
    updates = jax.eval_shape(functools.partial(step, optim.muon(0.1, specs)), params)[0]
    assert jax.tree.structure(updates) == jax.tree.structure(params)


@pytest.mark.parametrize("described", ["state", "dictionary", "function", "rules"])
def test_nnx_optimizer_updates_with_every_kind_of_specs(described):
    model = nnx.Linear(4, 6, rngs=nnx.Rngs(0))
    specs = {
        "state": by_shape(nnx.state(model, nnx.Param)),
        "dictionary": {"kernel": M(), "bias": None},
        "function": by_shape,
    }
    if described == "rules":
        rules = [("kernel", "muon"), ("bias", "adamw")]
        tx = optim.partition({"muon": optim.muon(0.1), "adamw": optim.adamw(0.1)}, rules)
    else:
        tx = optim.muon(0.1, specs[described])
    before = np.array(model.kernel[...])
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    optimizer.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param)))
    assert (np.asarray(model.kernel[...]) != before).any()


def test_a_spec_for_a_subtree_holds_for_its_leaves():
    whole, _ = step(optim.muon(0.1, SPECS), example())
    upper, _ = step(optim.muon(0.1, SPECS | {"mlp": M()}), example())
    assert_trees_equal(upper, whole)
    without, _ = step(optim.muon(0.1, SPECS | {"mlp": None}), example())
    by_adamw, _ = step(optim.adamw(0.1), example())
    assert_trees_equal(without["mlp"], by_adamw["mlp"])


def test_specs_of_no_leaf_and_leaves_without_specs_are_named():
    with pytest.raises(ValueError, match=r"missing: \['mlp/up'\], .*: \['mlp/upp'\]"):
        optim.muon(0.1, SPECS | {"mlp": {"down": M(), "upp": M()}}).init(example())


def test_what_optax_masks_out_needs_no_specs():
    mask = {"bias": True, "mlp": False, "wq": True}
    optimizer = optax.masked(optim.muonclip(0.1, SPECS, CLIP_SPECS), mask)
    updates = jax.eval_shape(functools.partial(step, optimizer), example())[0]
    assert jax.tree.structure(updates) == jax.tree.structure(example())


MASKS = {
    "tree": {"bias": True, "mlp": {"down": True, "up": True}, "wq": False},
    "upper_part": {"bias": True, "mlp": True, "wq": False},
    "function": lambda tree: jax.tree.map(lambda x: x.ndim < 3, tree),
    "none": None,
}


@pytest.mark.parametrize(
    ("name", "mask"),
    [*(("adamw", mask) for mask in MASKS), *((n, "upper_part") for n in MAKE if n != "adamw"),
     *((n, "none") for n in MAKE if n != "adamw")],
)  # fmt: skip
def test_weight_decay_acts_on_every_leaf_of_the_mask(name, mask):
    """Zero gradients leave nothing but the decay."""
    recipe, specs = MAKE[name]
    # One step of the polar factor compiles fastest.
    quick = {} if name == "adamw" else {"schedule": optim.newton_schulz(1)}
    optimizer = recipe(0.1, weight_decay=0.5, mask=MASKS[mask], **specs, **quick)
    params = example()
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(
        zeros, optimizer.init(params), params, max_logits=jnp.zeros((1, 2))
    )
    matrices = 0.0 if name == "muon_hyperball" else 0.05  # which keeps norms as they are
    rates = {"bias": 0.05, "mlp": matrices, "wq": matrices if mask == "none" else 0.0}
    for leaf, rate in rates.items():
        for u, p in zip(*map(jax.tree.leaves, (updates[leaf], params[leaf])), strict=True):
            np.testing.assert_allclose(u, -rate * p, rtol=1e-6, atol=1e-6)


DTYPES = [np.float16, jnp.bfloat16, np.complex64, np.float64, np.complex128]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda x: jnp.dtype(x).name)
@pytest.mark.parametrize("name", [*MAKE, *WRAP])
def test_any_dtype_keeps_its_updates_and_its_state(name, dtype):
    recipe, specs = MAKE.get(name, MAKE["muonclip"])
    optimizer = WRAP.get(name, lambda inner: inner)(recipe(0.1, **specs))
    with jax.enable_x64(jnp.dtype(dtype).itemsize > 4 and dtype != np.complex64):
        params = jax.eval_shape(lambda: example(dtype))
        state = jax.eval_shape(optimizer.init, params)
        updates, new_state = jax.eval_shape(functools.partial(step, optimizer), params, state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new_state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    wide = jnp.promote_types(dtype, np.float32)
    expected = wide if name == "with_master_weights" else dtype
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(expected)}
    copies = [x for x in jax.tree.leaves(state) if x.shape == (8, 2, 4)]
    # Second moments are real.
    assert {np.zeros((), x.dtype).real.dtype for x in copies} == {np.zeros((), wide).real.dtype}


def test_the_factor_of_a_complex_matrix_is_unitary_and_its_own():
    rng = np.random.default_rng(0)
    x = np.complex64(rng.standard_normal((2, 5, 7)) + 1j * rng.standard_normal((2, 5, 7)))
    factor = optim.polar(jnp.asarray(x), optim.POLAR_EXPRESS_8, compute_dtype=np.float32)
    left, _, right = np.linalg.svd(x, full_matrices=False)
    np.testing.assert_allclose(factor, left @ right, atol=1e-4)
    np.testing.assert_allclose(optim.orthogonality_error(factor), 0.0, atol=1e-4)


def test_integers_have_no_factor():
    with pytest.raises(ValueError, match="real or complex numbers, got int32"):
        optim.polar(jnp.ones((2, 3), jnp.int32), optim.POLAR_EXPRESS_5)


@pytest.mark.parametrize("name", [n for n in MAKE if n != "adamw"])
def test_empty_leaves_stay_empty_and_make_no_nan(name):
    recipe, _ = MAKE[name]
    params = {"a": jnp.ones((2, 3)), "rows": jnp.ones((0, 3)), "cols": jnp.ones((3, 0))}
    clip = {"a": optim.QKClipSpec(layer_axis=None, head_axis=0, segments=((3, 1.0),)),
            "rows": None, "cols": None}  # fmt: skip
    options = {"clip_specs": clip} if name == "muonclip" else {}
    optimizer = recipe(0.1, M(), **options)
    updates, state = step(optimizer, params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((updates, state)))
    assert updates["cols"].shape == (3, 0)


@pytest.mark.parametrize("rule", optim.SHAPE_RULES)
def test_shape_rules_take_empty_leaves(rule):
    params = {"rows": jnp.ones((0, 3)), "cols": jnp.ones((3, 0))}
    jax.eval_shape(functools.partial(step, optim.muon(0.1, shape_rule=rule)), params)


@pytest.mark.parametrize("number", [0, -1, 1.5, None, "2"])
@pytest.mark.parametrize(
    "make",
    [
        lambda n: optim.accumulate(optim.adamw(0.1), n),
        lambda n: optim.weight_average(interval_steps=n),
        lambda n: optim.skip_bad_steps(optim.adamw(0.1), window_steps=n),
    ],
    ids=["accumulate", "weight_average", "skip_bad_steps"],
)
def test_counts_are_whole_and_positive(make, number):
    with pytest.raises(ValueError, match=f"at least 1, got {number!r}"):
        make(number)


def test_negative_axes_count_from_the_last():
    assert M(batch=(0,), rows=(-2,), cols=(-1,)) == M(batch=(0,), rows=(1,), cols=(2,))
    assert M(rows=[-3], cols=[-2, -1]) == M(rows=(0,), cols=(1, 2))
    for wrong in ({"rows": (-3,)}, {"cols": (-2,)}, {"batch": (5,)}):
        with pytest.raises(ValueError, match="every axis once"):
            M(**wrong)
    with pytest.raises(ValueError, match="split_axis must be one of 2 axes"):
        M(split_axis=2, split_sizes=(1, 2))


@pytest.mark.parametrize(
    "axes", [{"head_axis": 3}, {"head_axis": -1}, {"layer_axis": 1}, {"segment_axis": 1}]
)
def test_axes_of_a_clip_spec_are_different_and_of_the_leaf(axes):
    spec = dataclasses.replace(_Q, **axes)
    with pytest.raises(ValueError, match=r"at 'wq': layer_axis=.* must be different axes"):
        optim.qk_clip(30.0, CLIP_SPECS | {"wq": spec}).init(example())


@pytest.mark.parametrize("statistic", [[[200.0, 10.0]], np.array([[200, 10]]), MAX_LOGITS])
def test_the_statistic_may_be_any_array(statistic):
    optimizer = optim.accumulate(optim.qk_clip(30.0, CLIP_SPECS), 1)
    params = example()
    _, state = optimizer.update(params, optimizer.init(params), params, max_logits=statistic)
    np.testing.assert_allclose(optim.clip_report(state)["gamma"], [[0.15, 1.0]])


def test_a_nan_in_one_micro_batch_is_counted():
    optimizer = optim.accumulate(optim.qk_clip(30.0, CLIP_SPECS), 2)
    params = example()
    state = optimizer.init(params)
    for last in (np.nan, 10.0):
        statistic = np.float32([[200.0, last]])
        _, state = optimizer.update(params, state, params, max_logits=statistic)
    np.testing.assert_array_equal(optim.clip_report(state)["num_nonfinite"], [[0, 1]])


def test_donated_steps_and_vmapped_rates_work():
    params = example()
    optimizer = optim.with_master_weights(optim.muonclip(0.1, SPECS, CLIP_SPECS))
    state = optimizer.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def train(params, state):
        updates, state = step(optimizer, params, state)
        return optax.apply_updates(params, updates), state

    for _ in range(2):
        params, state = train(params, state)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
    rates = jax.vmap(lambda lr: step(optim.adamw(lr), example())[0])(jnp.array([0.1, 0.2]))
    np.testing.assert_allclose(rates["bias"][1], 2 * rates["bias"][0], rtol=1e-6)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: optax.apply_if_finite(inner, 3),
        lambda inner: optax.contrib.schedule_free(inner, 0.1),
        lambda inner: optax.MultiSteps(inner, 2),
        lambda inner: optax.chain(inner, optax.ema(0.9)),
    ],
    ids=["apply_if_finite", "schedule_free", "MultiSteps", "ema"],
)
@every_recipe
def test_works_inside_more_of_optax(name, wrap):
    recipe, specs = MAKE[name]
    optimizer = wrap(recipe(0.1, **specs))
    state = jax.eval_shape(optimizer.init, example())
    _, new = jax.eval_shape(functools.partial(step, optimizer), example(), state)
    assert jax.tree.structure(new) == jax.tree.structure(state)
