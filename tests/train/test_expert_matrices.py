"""The experts' FP8 matrices are made once in a step, and its gradients stay the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_jobs

from kanana_jax import config, data, model, parallel
from kanana_jax.train import step as step_lib

EDITS = (
    "execution.precision=fp8",
    "execution.accumulation_steps=2",
    "execution.remat=full",
    "model.num_layers=2",
)


@pytest.fixture
def made(cfg, corpus):
    """gradients(*edits) -> the function of a step, and its arguments."""

    def gradients(*edits):
        step_cfg = tiny_jobs.step_config(cfg.edited([*EDITS, *edits]))
        rng = np.random.default_rng(0)
        shapes = jax.eval_shape(
            functools.partial(model.init_params, step_cfg.model), jax.random.key(0)
        )
        params = jax.tree.map(
            lambda leaf: jnp.asarray(0.2 * rng.standard_normal(leaf.shape, np.float32)), shapes
        )
        weights = model.Weights(params, model.init_buffers(step_cfg.model))
        batch = jax.tree.map(jnp.asarray, data.train_batch(corpus, cfg.data, 0))
        return functools.partial(step_lib.gradients, cfg=step_cfg), (weights, batch, {})

    return gradients


def found(function, arguments):
    options = {"xla_backend_optimization_level": 0}
    return jax.device_get(jax.jit(function, compiler_options=options)(*arguments)[0])


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(one["moe_layers"]["mlp"]))


def use_by_use(monkeypatch):
    monkeypatch.setattr(model.expert_matrices, "once", lambda *_: None)


@pytest.mark.long
@pytest.mark.parametrize("is_scanned", ["true", "false"])
def test_gradients_are_those_of_matrices_made_at_every_use(made, is_scanned, monkeypatch):
    function, arguments = made(f"execution.scan_layers={is_scanned}")
    got = found(function, arguments)
    use_by_use(monkeypatch)
    assert_equal(got, found(function, arguments))


@pytest.mark.long
def test_gradients_are_the_same_on_several_devices(made, monkeypatch):
    function, arguments = made()
    axes = config.MeshConfig(data=1, fsdp=2, expert=2, tensor=2)
    with jax.set_mesh(parallel.make_mesh(axes, jax.devices()[:8])):
        got = found(function, arguments)
        use_by_use(monkeypatch)
        assert_equal(got, found(function, arguments))


def quantisations(jaxpr, shapes):
    """Conversions to FP8 of arrays of these shapes; a loop's count once."""
    count = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "convert_element_type" and eqn.outvars[0].aval.shape in shapes:
            count += eqn.params["new_dtype"] == jnp.float8_e4m3fn
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                count += quantisations(inner, shapes) if hasattr(inner, "eqns") else 0
    return count


@pytest.mark.slow
def test_a_step_quantises_each_matrix_once(made):
    function, arguments = made()
    experts, width, hidden = arguments[0].params["moe_layers"]["mlp"]["w_down"].shape[1:]
    shapes = {(experts, 2 * width, hidden), (experts, width, hidden)}

    # Made at every use it would be 5: forward, h again, backward.
    assert quantisations(jax.make_jaxpr(function)(*arguments).jaxpr, shapes) == 2


@pytest.mark.parametrize("edit", ["full", "fp8_store", "fp8_per_tensor"])
def test_other_precisions_make_none(made, edit):
    _, (weights, *_) = made()
    execution = config.ExecutionConfig(precision=edit)
    assert model.expert_matrices.once(weights.params, execution) is None
