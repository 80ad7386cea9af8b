"""What is summed over which tokens, on a model that is a table of hidden states.

Letters: B sequences, S positions, D hidden, V vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kanana_jax import config, model
from kanana_jax.batch import Batch
from kanana_jax.model import transformer
from kanana_jax.objectives import NextToken
from kanana_jax.train import forward
from kanana_jax.train import step as step_lib
from kanana_jax.train.step_config import StepConfig

B, S, V = 4, 6, 16


@pytest.fixture
def table(monkeypatch, cfg):
    """Hidden states are rows of the embedding, shifted by the router's bias."""

    def hidden_states(shape, weights, inputs, execution, *, counts_needed=False):
        aux = transformer.Aux(
            max_logits=jnp.zeros((shape.num_layers, shape.num_heads)),
            sequence_load=jnp.zeros((shape.num_moe_layers, B, shape.num_experts)),
            balance_loss=jnp.zeros(()),
        )
        bias = weights.buffers["router_bias"]
        return weights.params["embed"][inputs.tokens] * (1.0 + bias.sum()), aux

    monkeypatch.setattr(model, "hidden_states", hidden_states)
    edits = [f"model.vocab_size={V}", "data.batch_size=4"]
    made = StepConfig.of(cfg.edited(edits), NextToken(z_weight=0.1))
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: model.init(made.model, jax.random.key(0)))
    params = {
        name: jnp.asarray(rng.standard_normal(shapes.params[name].shape), jnp.float32)
        for name in ("embed", "head")
    }
    return made, model.Weights(params, model.init_buffers(made.model))


def batch_with(mask_BS):
    rng = np.random.default_rng(1)
    tokens, targets = rng.integers(0, V, (2, B, S))
    ones = np.ones((B, S), np.int32)
    fields = (tokens, targets, ones, ones, np.float32(mask_BS), np.float32(ones))
    return Batch(*map(jnp.asarray, fields))


# Ten targets for one micro-batch, two for the other: means of means would weigh them alike.
UNEVEN_BS = np.arange(S) < np.array([[6], [1], [4], [1]])


@pytest.mark.long
def test_micro_batches_weigh_by_their_targets(table):
    cfg, weights = table
    batch = batch_with(UNEVEN_BS)
    whole = step_lib.gradients(weights, batch, {}, cfg)
    parts = config.edit(cfg, ["execution.accumulation_steps=2"])
    found = step_lib.gradients(weights, batch, {}, parts)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def logits_of(cfg, weights, batch):
    head_axes = model.describe(cfg.model)["head"].logical_axes
    head = weights.params["head"]
    head_DV = head if head_axes[0] == "embed" else head.T
    return np.asarray(weights.params["embed"])[batch.tokens] @ np.asarray(head_DV)


def test_losses_count_targets_that_the_mask_shows(table):
    cfg, weights = table
    batch = batch_with(UNEVEN_BS)
    _, (seen, _) = step_lib.micro_loss(
        weights.params, weights.buffers, batch, {}, UNEVEN_BS.sum(), 1.0, cfg
    )
    logits_BSV = logits_of(cfg, weights, batch)
    logz_BS = np.log(np.exp(logits_BSV).sum(axis=-1))
    chosen_BS = np.take_along_axis(logits_BSV, np.asarray(batch.targets)[..., None], -1)[..., 0]
    sums = seen.sums
    np.testing.assert_allclose(sums["z_loss"], (logz_BS**2)[UNEVEN_BS].mean(), rtol=1e-5)
    np.testing.assert_allclose(sums["loss"], (logz_BS - chosen_BS)[UNEVEN_BS].mean(), rtol=1e-5)


def test_evaluation_routes_with_the_routers_bias(table):
    cfg, weights = table
    options = {"cfg": cfg.model, "execution": cfg.execution}
    batch = batch_with(UNEVEN_BS)
    shifted = jax.tree.map(lambda x: x + 1.0, weights.buffers)
    nats, num_bytes = forward.evaluate_batch(weights._replace(buffers=shifted), batch, **options)
    plain, _ = forward.evaluate_batch(weights, batch, **options)
    assert (np.asarray(nats) != np.asarray(plain)).all()
    np.testing.assert_array_equal(num_bytes, np.full(B, S))
