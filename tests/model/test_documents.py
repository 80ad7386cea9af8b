"""Documents packed into one row do not see each other, the future, or padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_model import SMALL, jit, weights

from kanana_jax import model
from kanana_jax.model import presets


@pytest.fixture(scope="module")
def apply():
    run = jit(lambda weights, inputs: model.apply(SMALL, weights, inputs, presets.LAPTOP))
    return lambda *inputs: run(weights(SMALL), model.Inputs(*inputs))


def row(lengths, num_padding=0, seed=0):
    """One packed row: tokens, positions restarting per document, segment ids from 1."""
    positions = np.concatenate([np.arange(n) for n in (*lengths, num_padding)])
    segments = np.concatenate(
        [np.full(n, i + 1) for i, n in enumerate(lengths)] + [np.zeros(num_padding)]
    )
    tokens = np.random.default_rng(seed).integers(0, SMALL.vocab_size, positions.shape)
    return tuple(jnp.asarray(x[None], jnp.int32) for x in (tokens, positions, segments))


def test_another_documents_tokens_change_no_bit(apply):
    tokens, positions, segments = row((5, 7, 4))
    other = tokens.at[0, 5:12].set((tokens[0, 5:12] + 1) % SMALL.vocab_size)
    before, _ = apply(tokens, positions, segments)
    after, _ = apply(other, positions, segments)
    np.testing.assert_array_equal(before[0, :5], after[0, :5])
    np.testing.assert_array_equal(before[0, 12:], after[0, 12:])
    assert np.all(np.any(before[0, 5:12] != after[0, 5:12], axis=-1))


def test_later_tokens_change_no_bit(apply):
    tokens, positions, segments = row((16,))
    before, _ = apply(tokens, positions, segments)
    after, _ = apply(tokens.at[0, 9].set(49 - tokens[0, 9]), positions, segments)
    np.testing.assert_array_equal(before[0, :9], after[0, :9])
    assert np.all(np.any(before[0, 9:] != after[0, 9:], axis=-1))


def test_a_packed_document_has_the_logits_it_has_alone(apply):
    tokens, positions, segments = row((9, 7))
    packed, _ = apply(tokens, positions, segments)
    alone, _ = apply(tokens[:, 9:], positions[:, 9:], jnp.ones((1, 7), jnp.int32))
    np.testing.assert_allclose(
        packed[:, 9:], alone, rtol=0, atol=1e-5 * float(jnp.abs(alone).max())
    )


@pytest.mark.long
def test_padding_counts_nowhere(apply):
    tokens, positions, segments = row((8,), num_padding=8)
    one, seen = apply(tokens, positions, segments)
    two, also = apply(tokens.at[0, 8:].set(7), positions, segments)
    alone_logits, alone = apply(*(x[:, :8] for x in (tokens, positions, segments)))
    np.testing.assert_array_equal(one[:, :8], two[:, :8])
    jax.tree.map(
        np.testing.assert_array_equal,
        *(x._replace(routes=x.routes[:, :, :8]) for x in (seen, also)),
    )
    np.testing.assert_allclose(one[:, :8], alone_logits, atol=1e-5 * float(jnp.abs(one).max()))
    np.testing.assert_array_equal(seen.expert_load, alone.expert_load)
    np.testing.assert_array_equal(seen.expert_load.sum(axis=1), 8 * SMALL.num_experts_per_token)
    np.testing.assert_allclose(seen.max_logits, alone.max_logits, rtol=1e-5)
    np.testing.assert_allclose(seen.balance_loss, alone.balance_loss, rtol=1e-5)


@pytest.mark.long
def test_padding_gets_no_gradient_and_none_is_nan():
    tokens, positions, segments = row((8,), num_padding=8)

    def loss(params, tokens):
        inputs = model.Inputs(tokens, positions, segments)
        logits, aux = model.apply(SMALL, one._replace(params=params), inputs, presets.LAPTOP)
        return logits[:, :8].mean() + aux.balance_loss

    grad, one = jit(jax.grad(loss)), weights(SMALL)
    before, after = (grad(one.params, x) for x in (tokens, tokens.at[0, 8:].set(7)))
    for leaf in jax.tree.leaves(before):
        assert np.all(np.isfinite(leaf))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max()), before, after
    )


def test_a_batch_of_padding_has_no_load_and_no_max_logit(apply):
    tokens, positions, _ = row((8, 8))
    _, aux = apply(tokens, positions, jnp.zeros((1, 16), jnp.int32))
    np.testing.assert_array_equal(aux.max_logits, -np.inf)
    np.testing.assert_array_equal(aux.expert_load, 0.0)
    np.testing.assert_array_equal(aux.balance_loss, 0.0)
