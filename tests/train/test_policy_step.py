"""Policy gradients in a step: values, temperatures, stored rows and routes beside rollouts.

Letters: B sequences, S positions, V vocabulary.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_jobs

from kanana_jax import config, model, parallel
from kanana_jax.batch import Batch
from kanana_jax.objectives import presets
from kanana_jax.objectives.critic import ValueLoss
from kanana_jax.train import forward, step_functions
from kanana_jax.train import step as step_lib
from kanana_jax.train.step_config import StepConfig

B, S, V = 4, 16, 64
PPO = presets.ppo(
    0.1,
    1.2,
    ValueLoss(0.5, 0.1),
    kl="loss_rk3",
    kl_weight=0.2,
    ptx_weight=0.3,
    has_temperature=True,
)


def made_with(objective, scalar_head=True) -> StepConfig:
    cfg = tiny_jobs.pretraining("words.txt")
    shape = dataclasses.replace(cfg.model, vocab_size=V, scalar_head=scalar_head)
    data = dataclasses.replace(cfg.data, batch_size=B, seq_len=S)
    still = dataclasses.replace(cfg.train, balance_loss_weight=0.0, router_bias_rate=0.0)
    cfg = dataclasses.replace(cfg, model=shape, data=data, train=still)
    return StepConfig.of(cfg, objective)


@pytest.fixture(scope="module")
def weights() -> model.Weights:
    made = made_with(PPO)
    weights = model.init(made.model, jax.random.key(0))
    # Far from uniform, so that temperatures and clips matter.
    head = 8.0 * weights.params["head"]
    score = jax.random.normal(jax.random.key(1), (made.model.hidden_size,))
    return weights._replace(params=weights.params | {"head": head, "scalar_head": score})


def logits_and_values(made, params, buffers, batch):
    bound = model.Weights(params, buffers)
    logits_BSV, _ = model.apply(made.model, bound, batch.inputs, made.execution)
    hidden_BSD, _ = model.hidden_states(made.model, bound, batch.inputs, made.execution)
    return logits_BSV, hidden_BSD.astype(jnp.float32) @ params["scalar_head"]


def log_probabilities(logits_BSV, batch):
    divided_BSV = logits_BSV / batch.extra["temperature"][..., None]
    logp_BSV = jax.nn.log_softmax(divided_BSV)
    return jnp.take_along_axis(logp_BSV, jnp.asarray(batch.targets)[..., None], axis=-1)[..., 0]


def batch_of_rollouts(made, weights) -> Batch:
    """Two rollouts of two turns to a row; the second row is stored data."""
    rng = np.random.default_rng(0)
    tokens, targets = rng.integers(0, V, (2, B, S), np.int32)
    places = np.broadcast_to(np.arange(S, dtype=np.int32), (B, S))
    mask = np.float32(np.isin(places % 8, [2, 3, 6]))
    stored = np.float32(np.arange(B)[:, None] == 1) * np.ones((B, S), np.float32)
    batch = Batch(tokens, targets, places % 8, places // 8 + 1, mask, mask)
    drawn = np.where(stored, 0.7, rng.uniform(0.6, 1.5, (B, 1)))
    extra = {"temperature": np.float32(np.where(stored, 1.0, drawn))}
    placed = jax.tree.map(jnp.asarray, batch._replace(extra=extra))
    logits_BSV, value_BS = logits_and_values(made, *weights[:2], placed)
    logp_BS = log_probabilities(logits_BSV, placed)
    noise = functools.partial(rng.normal, size=(B, S))
    column = {
        "advantage": np.repeat(rng.normal(size=(B, 2)), S // 2, axis=1),
        "old": logp_BS + noise(0.0, 0.2),
        "sampler": logp_BS + noise(0.0, 0.2),
        "reference": logp_BS + noise(0.0, 0.5),
        "returns": noise(),
        "old_values": value_BS + noise(0.0, 0.3),
    }
    extra |= {name: np.float32(np.where(stored, 0.0, x)) for name, x in column.items()}
    return batch._replace(extra=extra | {"stored": stored})


def loss_with_logits(made, batch, params, buffers):
    """This file's PPO, from all logits at once."""
    logits_BSV, v_BS = logits_and_values(made, params, buffers, batch)
    logp_BS, x = log_probabilities(logits_BSV, batch), batch.extra
    a_BS, r_BS = x["advantage"], jnp.exp(logp_BS - x["old"])
    l_BS = jnp.maximum(-r_BS * a_BS, -jnp.clip(r_BS, 0.9, 1.1) * a_BS)
    l_BS = jnp.where(a_BS < 0, jnp.minimum(l_BS, -1.2 * a_BS), l_BS)
    d_BS = logp_BS - x["reference"]
    l_BS += 0.2 * r_BS * (jnp.exp(-d_BS) - 1 + d_BS)
    bounded_BS = x["old_values"] + jnp.clip(v_BS - x["old_values"], -0.1, 0.1)
    squares = (v_BS - x["returns"]) ** 2, (bounded_BS - x["returns"]) ** 2
    l_BS += 0.5 * 0.5 * jnp.maximum(*squares)
    drawn_BS = batch.loss_mask * (1 - x["stored"])
    stored_BS = batch.loss_mask * x["stored"]
    ptx = jnp.sum(-logp_BS * stored_BS) / stored_BS.sum()
    return jnp.sum(l_BS * drawn_BS) / drawn_BS.sum() + 0.3 * ptx


@pytest.mark.long
@pytest.mark.parametrize("num_micro", [1, 2])
def test_gradients_are_those_of_the_loss_written_with_logits(weights, num_micro):
    made = config.edit(made_with(PPO), [f"execution.accumulation_steps={num_micro}"])
    batch = jax.tree.map(jnp.asarray, batch_of_rollouts(made, weights))
    loss = functools.partial(loss_with_logits, made, batch)
    wanted, slopes = jax.jit(jax.value_and_grad(loss))(*weights[:2])
    jitted = jax.jit(functools.partial(step_lib.gradients, cfg=made))
    grads, seen, _ = jitted(weights, batch, {})
    np.testing.assert_allclose(seen.sums["loss"], wanted, rtol=1e-5)
    assert seen.sums["clipped"] > 0.1 and seen.sums["value_clipped"] > 0.1
    assert np.any(grads["scalar_head"]) and np.any(grads["head"])
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5),
        grads,
        slopes,
    )


@pytest.mark.long
def test_log_probabilities_are_at_the_temperature_of_the_batch(weights):
    made = made_with(PPO)
    batch = jax.tree.map(jnp.asarray, batch_of_rollouts(made, weights))
    logits_BSV, _ = logits_and_values(made, *weights[:2], batch)
    logp = functools.partial(forward.log_probabilities, cfg=made.model, execution=made.execution)
    found = functools.partial(jax.jit(logp), weights)
    wanted_BS = log_probabilities(logits_BSV, batch)
    np.testing.assert_allclose(found(batch), wanted_BS, rtol=1e-4, atol=1e-4)
    plain = batch._replace(extra={"temperature": jnp.ones((B, S))})
    padded = batch._replace(extra={"temperature": jnp.zeros((B, S))})
    np.testing.assert_array_equal(found(padded), found(plain))
    assert np.abs(found(plain) - wanted_BS).max() > 0.1


@pytest.mark.parametrize("replays_routes", [True, False])
def test_a_step_is_compiled_for_the_routes_that_its_objective_replays(replays_routes):
    made = made_with(presets.grpo(replays_routes=replays_routes), scalar_head=False)
    mesh = parallel.make_mesh(config.MeshConfig(data=1), jax.devices()[:1])
    inputs = step_functions.build(made, mesh).trace().jaxpr.in_avals
    shape = B, S, made.model.num_moe_layers, made.model.num_experts_per_token
    routes = [one for one in inputs if one.shape == shape and one.dtype == jnp.int32]
    assert len(routes) == replays_routes


def test_a_critic_needs_a_model_with_a_scalar_head():
    made = made_with(presets.ppo(), scalar_head=False)
    mesh = parallel.make_mesh(config.MeshConfig(data=1), jax.devices()[:1])
    with pytest.raises(ValueError, match=r"model\.scalar_head=true"):
        step_functions.build(made, mesh).trace()
