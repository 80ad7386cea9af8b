"""The head's losses and gradients in one pass against JAX's own for the whole logits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kanana_jax import config, model, parallel
from kanana_jax.model import presets
from kanana_jax.train import head

CFG = dataclasses.replace(presets.tiny(67), hidden_size=16, tie_embeddings=False)
Z_WEIGHT = 0.3


def arrays(cfg, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    name, shape = ("embed", (67, 16)) if cfg.tie_embeddings else ("head", (16, 67))
    params = {name: jax.random.normal(keys[0], shape)}
    hidden = jax.random.normal(keys[1], (8, 32, 16), dtype)
    targets = jax.random.randint(keys[2], (8, 32), 0, 67)
    weights = jax.random.bernoulli(keys[3], 0.8, (8, 32)) / 200.0
    return params, hidden, targets, weights


def plain(cfg, params, hidden, targets, weights):
    """The loss from all logits at once, in float32."""
    logits = model.logits(cfg, params, hidden.astype(jnp.float32))
    logz = jax.nn.logsumexp(logits, axis=-1)
    nll = logz - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jnp.sum(weights * (nll + Z_WEIGHT * logz**2)), nll, logz


def chunked(cfg, params, hidden, targets, weights, chunk_tokens):
    return head.losses(
        cfg, params, hidden, targets, weights, z_weight=Z_WEIGHT, chunk_tokens=chunk_tokens
    )


def scaled_grads(fn, *args):
    """The incoming gradient is not 1, as in a sum with other losses."""
    return jax.grad(lambda params, hidden: 3.0 * fn(params, hidden)[0], argnums=(0, 1))(*args)


@pytest.mark.long
def test_a_frozen_head_has_no_gradient_formed_and_may_be_of_16_bits():
    params, hidden, *rest = arrays(CFG)

    def loss(hidden, params):
        return chunked(CFG, params, hidden, *rest, 64)[0]

    def products(fn, *args):
        return str(jax.make_jaxpr(fn)(*args)).count("f32[16,67] = dot_general")

    assert products(jax.grad(loss, argnums=1), hidden, params) > 0
    assert products(jax.grad(loss), hidden, params) == 0
    found = jax.grad(loss)(hidden, params)
    np.testing.assert_array_equal(found, jax.grad(loss, argnums=(0, 1))(hidden, params)[0])
    narrow = {"head": params["head"].astype(jnp.bfloat16)}
    wide = {"head": narrow["head"].astype(jnp.float32)}
    np.testing.assert_array_equal(jax.grad(loss)(hidden, narrow), jax.grad(loss)(hidden, wide))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chunk_tokens", "seq_len", "tied"),
    [
        (1 << 20, 32, False),
        (64, 32, True),
        (64, 31, False),
        (24, 31, True),
        (7, 32, False),
        (1, 32, False),
    ],
)
def test_losses_and_gradients_are_those_of_the_whole_logits(chunk_tokens, seq_len, tied):
    cfg = dataclasses.replace(CFG, tie_embeddings=tied)
    params, *by_token = arrays(cfg)
    hidden, *rest = (x[:, :seq_len] for x in by_token)

    def ours(params, hidden):
        return chunked(cfg, params, hidden, *rest, chunk_tokens)

    def wanted(params, hidden):
        return plain(cfg, params, hidden, *rest)

    for got, exact in (
        (ours(params, hidden), wanted(params, hidden)),
        (scaled_grads(ours, params, hidden), scaled_grads(wanted, params, hidden)),
    ):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), got, exact
        )


@pytest.mark.parametrize(
    "axes", [{"data": 2, "fsdp": 2, "tensor": 2}, {"context": 2, "fsdp": 4}], ids=str
)
def test_eight_devices_give_the_gradients_of_one(axes):
    params, hidden, *rest = arrays(CFG)

    def ours(params, hidden):
        return chunked(CFG, params, hidden, *rest, 16)

    alone = ours(params, hidden), scaled_grads(ours, params, hidden)
    mesh = parallel.make_mesh(config.MeshConfig(**{"data": 1, "fsdp": 1, **axes}))
    with jax.set_mesh(mesh):
        spread = jax.jit(lambda *args: (ours(*args), scaled_grads(ours, *args)))(params, hidden)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), spread, alone)


def test_bfloat16_products_have_the_gradients_of_float32_up_to_rounding():
    params, hidden, *rest = arrays(CFG, jnp.bfloat16)
    got = scaled_grads(lambda *args: chunked(CFG, *args, *rest, 64), params, hidden)
    exact = scaled_grads(lambda *args: plain(CFG, *args, *rest), params, hidden)
    assert got[0]["head"].dtype == jnp.float32 and got[1].dtype == jnp.bfloat16
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(exact), strict=True):
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        assert np.linalg.norm(a - b) < 0.01 * np.linalg.norm(b)


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [((8, 1021), 2), ((8, 1024), 2), ((8, 512), 1), ((1, 4099), 2), ((5000, 3), 3)],
)
def test_slices_are_as_few_as_hold_every_token(shape, wanted):
    chunks = head._num_chunks(shape, 4096)
    assert chunks == wanted
    parts = head._split(1 + jnp.arange(np.prod(shape)).reshape(shape), chunks)
    assert parts.shape[:2] == (chunks, shape[0])
    assert np.asarray(parts[-1, :, 0]).all()  # no slice is all padding
    joined = head._join(parts, shape[1]).ravel()
    np.testing.assert_array_equal(joined, 1 + np.arange(np.prod(shape)))


def test_no_array_of_all_logits_and_no_wide_product():
    params, hidden, *rest = arrays(CFG, jnp.bfloat16)
    lowered = jax.jit(
        lambda *args: scaled_grads(lambda *args: chunked(CFG, *args, *rest, 64), *args)
    ).lower(params, hidden)
    text = lowered.as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) == 3  # forward, and one for each gradient: nothing is formed again
    assert all("xbf16>, tensor<" in line for line in products)
    assert "tensor<8x8x67xf32>" in text and "tensor<8x32x67x" not in text


@pytest.mark.parametrize("scale", [1.0, 3e3])
def test_one_pass_over_the_logits_finds_what_two_find(scale):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(scale * rng.standard_normal((2, 3, 500)), jnp.float32)
    # Both orders: the highest logit first, and a row that climbs to it.
    logits = logits.at[0].set(-jnp.sort(-logits[0])).at[1].set(jnp.sort(logits[1]))
    targets = jnp.asarray(rng.integers(0, 500, (2, 3)))
    got, wanted = (jax.jit(fn)(logits, targets) for fn in (head._in_one_pass, head._in_two_passes))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), got, wanted)
    exact = np.asarray(logits, np.float64)
    highest = exact.max(-1)
    logz = highest + np.log(np.exp(exact - highest[..., None]).sum(-1))
    np.testing.assert_allclose(got[0], logz, rtol=2e-6)
