"""FP8 in a model: which products use it, alike on one device and on several."""

import dataclasses
import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_model import GROUPED, SMALL, init, jit

from kanana_jax import config, model, parallel
from kanana_jax.config import execution
from kanana_jax.model import decoding, precision, presets
from pallas_kernels import quantize

FP8 = dataclasses.replace(presets.LAPTOP, precision="fp8")


def batch(cfg, rows=2):
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, cfg.vocab_size, (rows, 8)).astype(np.int32)
    weights = model.Weights(
        init(cfg), {"router_bias": np.zeros((cfg.num_moe_layers, cfg.num_experts), np.float32)}
    )
    positions = np.broadcast_to(np.arange(8, dtype=np.int32), tokens.shape)
    return weights, model.Inputs(tokens, positions, np.ones_like(tokens))


def test_precisions_are_those_of_the_kernels():
    assert typing.get_args(execution.Precision) == tuple(quantize.RECIPES)


def plain_products(jaxpr):
    """Contractions outside functions with a derivative of their own; a scan's count once."""
    found = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name.startswith("custom_vjp"):
            continue
        found += eqn.primitive.name == "dot_general"
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                found += plain_products(inner) if hasattr(inner, "eqns") else 0
    return found


@pytest.mark.parametrize(
    ("cfg", "num_projections"),
    [
        pytest.param(SMALL, 5, id="latent"),  # q, kv_a, two parts of kv_b, o
        pytest.param(dataclasses.replace(SMALL, q_lora_rank=12), 6, id="compressed"),
        pytest.param(GROUPED, 4, id="grouped"),
    ],
)
def test_all_products_but_the_routers_are_of_fp8(cfg, num_projections):
    def count(how):
        hidden = functools.partial(model.hidden_states, cfg, execution=how)
        return plain_products(jax.make_jaxpr(hidden)(*batch(cfg)).jaxpr)

    # Two kinds of blocks, each with gate and up in one product, and down; the router's.
    assert count(presets.LAPTOP) == 2 * (num_projections + 2) + 1
    for of_experts in ("fp8_store", "fp8_experts"):
        assert count(dataclasses.replace(presets.LAPTOP, precision=of_experts)) == count(
            presets.LAPTOP
        )
    assert count(FP8) == 1


@pytest.mark.parametrize(
    ("spec", "shapes"),
    [
        ("BSD,DHK->BSHK", ((2, 3, 16), (16, 2, 6))),
        ("BSHU,HUD->BSD", ((2, 3, 2, 8), (2, 8, 10))),
        ("BSD,GID->BSGI", ((2, 3, 16), (2, 5, 16))),
        ("BSI,ID->BSD", ((2, 3, 16), (16, 10))),
    ],
)
def test_an_einsum_of_fp8_has_the_axes_of_the_plain_one(spec, shapes):
    rng = np.random.default_rng(0)
    # Small integers are numbers of E4M3 under any power of two.
    x, w = (jnp.asarray(rng.integers(-8, 9, shape), jnp.float32) for shape in shapes)
    np.testing.assert_array_equal(precision.einsum(FP8)(spec, x, w), jnp.einsum(spec, x, w))


def gradients(cfg, how):
    def loss(params, buffers, inputs):
        hidden, _ = model.hidden_states(cfg, model.Weights(params, buffers), inputs, how)
        return (hidden * jnp.cos(3 * hidden)).sum()

    weights, inputs = batch(cfg, rows=4)
    return jit(jax.grad(loss))(weights.params, weights.buffers, inputs)


@pytest.mark.long
def test_gradients_on_several_devices_are_those_of_one():
    cfg = dataclasses.replace(SMALL, num_layers=2)
    want = gradients(cfg, FP8)
    mesh = parallel.make_mesh(config.MeshConfig(data=1, expert=2, tensor=2), jax.devices()[:4])
    with jax.set_mesh(mesh):
        got = gradients(cfg, FP8)
    plain = gradients(cfg, presets.LAPTOP)

    def distance(one, other):
        pairs = zip(*map(jax.tree.leaves, (one, other)), strict=True)
        return max(np.linalg.norm(a - b) / (np.linalg.norm(b) + 1e-6) for a, b in pairs)

    # Sums in another order round some numbers the other way, and where `tensor` cuts the experts'
    # widths, blocks have other scales.
    assert distance(got, want) < 0.3 * distance(plain, want)


def test_decoding_is_not_of_fp8():
    graph, _ = decoding._skeleton(SMALL, FP8, True)
    assert "precision='full'" in repr(graph) and "precision='fp8'" not in repr(graph)
