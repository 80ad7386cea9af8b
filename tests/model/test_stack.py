"""What the design rests on: NNX modules as pytrees under plain JAX transformations."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from numpy_model import SMALL, init, jit, weights

from kanana_jax import config, model
from kanana_jax.model import layers, presets, rope
from kanana_jax.model.block import Context

LAPTOP = presets.LAPTOP


def batch(num_rows=8, length=12, seed=0):
    tokens = jax.random.randint(jax.random.key(seed), (num_rows, length), 0, SMALL.vocab_size)
    return model.Inputs.of_tokens(tokens)


def loss(execution, params, inputs):
    weights = model.Weights(params, model.init_buffers(SMALL))
    logits, aux = model.apply(SMALL, weights, inputs, execution)
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - logits[..., 0]) + aux.balance_loss


def unrolled_loss(params, inputs):
    """The same, with a Python loop over single blocks and no checkpointing."""
    whole = model.bind(SMALL, params, LAPTOP)
    rotation = rope.rotation(SMALL, inputs.positions)
    context = Context(rotation, inputs.segment_ids)
    x, balance = whole.embed[...][inputs.tokens], 0.0
    for stack, size in ((whole.dense_layers, 1), (whole.moe_layers, 2)):
        for index in range(size):
            block = jax.tree.map(lambda leaf, index=index: leaf[index], stack)
            x, (_, stats) = block(x, jnp.zeros(8), context)
            balance += stats.balance_loss if stats else 0.0
    x = layers.norm(SMALL, x, whole.final_norm)
    logits = x @ whole.head[...]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - logits[..., 0]) + balance


def assert_trees_close(got, want, relative):
    """Each leaf within `relative` of its largest entry."""

    def check(path, a, b):
        np.testing.assert_allclose(
            a, b, rtol=0, atol=relative * np.abs(b).max(), err_msg=jax.tree_util.keystr(path)
        )

    jax.tree_util.tree_map_with_path(check, got, want)


@pytest.fixture(scope="module")
def unrolled():
    return jit(jax.value_and_grad(unrolled_loss))(init(SMALL), batch())


@pytest.mark.parametrize(
    ("remat", "scan_layers"),
    [("none", False), ("dots", True), ("full", False), ("full", True)],
)
@pytest.mark.long
def test_scan_and_checkpoint_give_the_gradients_of_a_loop(unrolled, remat, scan_layers):
    execution = dataclasses.replace(LAPTOP, remat=remat, scan_layers=scan_layers)
    got = jit(jax.value_and_grad(functools.partial(loss, execution)))(init(SMALL), batch())
    assert_trees_close(got, unrolled, 2e-5)


@pytest.mark.long
def test_scan_over_eight_devices_gives_the_gradients_of_a_loop_on_one(unrolled):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.device_put(batch(), NamedSharding(mesh, P("data")))
    params = jax.device_put(init(SMALL), NamedSharding(mesh, P()))
    got = jit(jax.value_and_grad(functools.partial(loss, LAPTOP)))(params, rows)
    assert_trees_close(got, unrolled, 2e-5)


@pytest.mark.long
def test_full_remat_keeps_fewer_numbers_for_the_backward_pass():
    def kept(remat):
        execution = dataclasses.replace(LAPTOP, remat=remat)
        params = jax.eval_shape(functools.partial(model.init_params, SMALL), jax.random.key(0))
        _, pullback = jax.eval_shape(
            lambda params: jax.vjp(lambda p: loss(execution, p, batch()), params), params
        )
        return sum(leaf.size for leaf in jax.tree.leaves(pullback))

    assert kept("full") < kept("dots") < kept("none")


@pytest.mark.parametrize("scan_layers", ["auto", True, False])
def test_a_stack_is_one_block_in_a_loop_or_all_of_it(scan_layers):
    execution = dataclasses.replace(LAPTOP, scan_layers=scan_layers)
    params = jax.eval_shape(functools.partial(model.init_params, SMALL), jax.random.key(0))
    jaxpr = jax.make_jaxpr(functools.partial(loss, execution))(params, batch())
    lengths = [e.params["length"] for e in jaxpr.eqns if e.primitive.name == "scan"]
    layers = [e.params["jaxpr"] for e in jaxpr.eqns if e.params.get("name") == "body"]
    assert lengths == ([1, 2] if scan_layers else [])
    # Unrolled, the layers of a stack are calls of one function, traced once.
    assert len(layers) == (0 if scan_layers else 3)
    assert len(set(map(id, layers))) == (0 if scan_layers else 2)


def test_parameters_survive_the_round_trip_through_a_plain_dict():
    params = init(SMALL)
    again = nnx.to_pure_dict(nnx.state(model.bind(SMALL, params)))
    assert type(params) is dict
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_module_apply_and_hidden_states_give_the_same_logits():
    @jit
    def three_ways(weights, inputs):
        hidden, _ = model.hidden_states(SMALL, weights, inputs, LAPTOP)
        return (
            model.bind(SMALL, weights.params, LAPTOP)(inputs)[0],
            model.apply(SMALL, weights, inputs, LAPTOP)[0],
            model.logits(SMALL, weights.params, hidden),
        )

    called, applied, projected = three_ways(weights(SMALL), batch())
    tolerance = 1e-5 * np.abs(called).max()
    np.testing.assert_allclose(applied, called, rtol=0, atol=tolerance)
    np.testing.assert_allclose(projected, called, rtol=0, atol=tolerance)


def test_a_notebook_user_needs_a_config_and_tokens_only():
    inputs = model.Inputs.of_tokens(np.ones((2, 5), np.int32))
    module = nnx.eval_shape(lambda: model.Transformer(SMALL, rngs=nnx.Rngs(0)))
    logits, aux = nnx.eval_shape(lambda module: module(inputs), module)
    assert logits.shape == (2, 5, 50)
    assert aux.max_logits.shape == (3, 2)


def test_missing_and_unknown_parameters_raise():
    params = init(SMALL)
    for wrong in (
        params | {"extra": jnp.zeros(1)},
        {k: v for k, v in params.items() if k != "head"},
    ):
        with pytest.raises(ValueError, match="must have the structure of"):
            model.apply(SMALL, weights(SMALL)._replace(params=wrong), batch())


def test_a_router_bias_of_another_shape_raises():
    wrong = weights(SMALL, jnp.zeros((3, 8)))
    with pytest.raises(ValueError, match=r"= \(2, 8\), got \(3, 8\)"):
        model.apply(SMALL, wrong, batch())


@pytest.mark.long
def test_init_draws_every_layer_alike_on_one_device_or_eight():
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    make = functools.partial(model.init_params, SMALL)

    def spread(leaf):
        axes = ["fsdp" if size == SMALL.hidden_size else None for size in leaf.shape]
        return NamedSharding(mesh, P(*axes))

    placed = jax.tree.map(spread, jax.eval_shape(make, jax.random.key(0)))
    sharded = jit(make, out_shardings=placed)(jax.random.key(0))
    plain = jit(make)(jax.random.key(0))
    assert sharded["embed"].addressable_shards[0].data.shape == (50, 4)
    # The compiler may fuse the two programs differently: the last bit of erf_inv.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), sharded, plain)
    first, second = plain["moe_layers"]["attention"]["wq"]
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.2
    np.testing.assert_allclose(first.std(), SMALL.init_std, rtol=0.1)
    np.testing.assert_array_equal(plain["moe_layers"]["mlp_norm"], 1.0)


def test_orbax_restores_every_bit(tmp_path):
    params = init(SMALL)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "params", params)
        checkpointer.wait_until_finished()
        like = jax.eval_shape(functools.partial(model.init_params, SMALL), jax.random.key(0))
        placed = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=params["embed"].sharding),
            like,
        )
        restored = checkpointer.restore(tmp_path / "params", placed)
    jax.tree.map(np.testing.assert_array_equal, restored, params)


def test_parameters_and_gradients_are_float32_and_activations_bfloat16():
    execution = config.ExecutionConfig(compute_dtype="bfloat16")
    abstract = jax.eval_shape(functools.partial(model.init, SMALL), jax.random.key(0))
    grads = jax.eval_shape(jax.grad(functools.partial(loss, execution)), abstract.params, batch())
    assert {leaf.dtype for leaf in jax.tree.leaves((abstract, grads))} == {jnp.dtype("float32")}
    hidden, aux = jax.eval_shape(
        functools.partial(model.hidden_states, SMALL, execution=execution), abstract, batch()
    )
    logits = jax.eval_shape(functools.partial(model.logits, SMALL), abstract.params, hidden)
    assert hidden.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, aux._replace(routes=None)))} == {
        jnp.dtype("float32")
    }


@pytest.mark.long
def test_bfloat16_logits_are_near_float32_ones():
    half = config.ExecutionConfig(compute_dtype="bfloat16")
    want, got = (
        jit(functools.partial(model.apply, SMALL, execution=execution))(weights(SMALL), batch())[0]
        for execution in (LAPTOP, half)
    )
    # 8 bits of mantissa through 3 layers; a token whose experts nearly tie may go elsewhere.
    error = np.abs(np.asarray(got) - want).max(axis=-1)
    assert np.median(error) < 0.05 * np.abs(want).max()


def test_an_empty_vocabulary_raises():
    with pytest.raises(ValueError, match="vocab_size > 0"):
        model.init(presets.tiny(), jax.random.key(0))
