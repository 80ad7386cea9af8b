"""What is summed over which tokens, on a model that is a table of hidden states.

Letters: B sequences, S positions, D hidden, V vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kanana_jax import config, model
from kanana_jax.model import transformer
from kanana_jax.train import loss
from kanana_jax.train import step as step_lib

B, S, V = 4, 6, 16


@pytest.fixture
def table(monkeypatch, exp):
    """Hidden states are rows of the embedding, shifted by the router's bias."""

    def hidden_states(cfg, params, router_bias, tokens, positions, segment_ids):
        aux = transformer.Aux(
            max_logits=jnp.zeros((cfg.num_layers, cfg.num_heads)),
            expert_load=jnp.zeros((cfg.num_moe_layers, cfg.num_experts)),
            balance_loss=jnp.zeros(()),
            max_vio=jnp.zeros((cfg.num_moe_layers,)),
        )
        return params["embed"][tokens] * (1.0 + router_bias.sum()), aux

    monkeypatch.setattr(model, "hidden_states", hidden_states)
    edits = [f"model.vocab_size={V}", "train.z_loss_weight=0.1", "data.batch_size=4"]
    exp = config.edit(exp, [*edits, "model.compute_dtype=float32"])
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: model.init(exp.model, jax.random.key(0)))
    params = {
        name: jnp.asarray(rng.standard_normal(shapes[name].shape), jnp.float32)
        for name in ("embed", "head")
    }
    return exp, params, jnp.zeros((exp.model.num_moe_layers, exp.model.num_experts))


def batch_with(mask_BS):
    rng = np.random.default_rng(1)
    tokens, targets = rng.integers(0, V, (2, B, S))
    ones = np.ones((B, S), np.int32)
    fields = (tokens, targets, ones, ones, np.float32(mask_BS), np.float32(ones))
    return loss.DeviceBatch(*map(jnp.asarray, fields))


# Ten targets for one micro-batch, two for the other: means of means would weigh them alike.
UNEVEN_BS = np.arange(S) < np.array([[6], [1], [4], [1]])


def test_micro_batches_weigh_by_their_targets(table):
    exp, params, bias = table
    batch = batch_with(UNEVEN_BS)
    whole = step_lib.gradients(params, bias, batch, exp)
    parts = config.edit(exp, ["train.accumulation_steps=2"])
    found = step_lib.gradients(params, bias, batch, parts)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def logits_of(exp, params, batch):
    head_axes = model.describe(exp.model)["head"].logical_axes
    head_DV = params["head"] if head_axes[0] == "embed" else params["head"].T
    return np.asarray(params["embed"])[batch.tokens] @ np.asarray(head_DV)


def test_losses_count_targets_that_the_mask_shows(table):
    exp, params, bias = table
    batch = batch_with(UNEVEN_BS)
    _, aux = loss.training_loss(params, bias, batch, 1.0, UNEVEN_BS.sum(), exp)
    logits_BSV = logits_of(exp, params, batch)
    logz_BS = np.log(np.exp(logits_BSV).sum(axis=-1))
    chosen_BS = np.take_along_axis(logits_BSV, np.asarray(batch.targets)[..., None], -1)[..., 0]
    sums = aux["sums"]
    np.testing.assert_allclose(sums["z_loss"], (logz_BS**2)[UNEVEN_BS].mean(), rtol=1e-5)
    np.testing.assert_allclose(sums["loss"], (logz_BS - chosen_BS)[UNEVEN_BS].mean(), rtol=1e-5)


def test_evaluation_routes_with_the_routers_bias(table):
    exp, params, bias = table
    options = {"cfg": exp.model, "chunk_tokens": exp.train.loss_chunk_tokens}
    batch = batch_with(UNEVEN_BS)
    nats, num_bytes = step_lib.evaluate_batch(params, bias + 1.0, batch, **options)
    plain, _ = step_lib.evaluate_batch(params, bias, batch, **options)
    assert (np.asarray(nats) != np.asarray(plain)).all()
    np.testing.assert_array_equal(num_bytes, np.full(B, S))
