"""The scalar head in a step: what it gives, and its gradients.

Letters: B sequences, S positions.
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
from kanana_jax.objectives.dpo import dpo
from kanana_jax.objectives.reward import Reward
from kanana_jax.train import forward, step_functions
from kanana_jax.train import step as step_lib
from kanana_jax.train.step_config import StepConfig

B, S = 4, 16


@pytest.fixture
def made(cfg) -> StepConfig:
    shape = dataclasses.replace(cfg.model, vocab_size=64, scalar_head=True)
    data = dataclasses.replace(cfg.data, batch_size=B, seq_len=S)
    still = dataclasses.replace(cfg.train, balance_loss_weight=0.0, router_bias_rate=0.0)
    cfg = tiny_jobs.pretraining("words.txt", model=shape, data=data, train=still)
    return StepConfig.of(cfg, Reward(0.1))


def batch_of_pairs() -> Batch:
    rng = np.random.default_rng(0)
    tokens, targets = rng.integers(0, 64, (2, B, S), np.int32)
    places = np.broadcast_to(np.arange(S, dtype=np.int32), (B, S))
    mask = np.float32(places % 4 >= 2)
    return Batch(tokens, targets, places % 4, places // 4 + 1, mask, mask)


def random_weights(made) -> model.Weights:
    weights = model.init(made.model, jax.random.key(0))
    score = jax.random.normal(jax.random.key(1), (made.model.hidden_size,))
    return weights._replace(params=weights.params | {"scalar_head": score})


def gradients(weights, batch, made):
    jitted = jax.jit(functools.partial(step_lib.gradients, cfg=made))
    grads, seen, _ = jitted(weights, batch, {})
    return grads, seen


def test_scalars_are_products_of_the_hidden_states_with_the_head(made):
    mesh = parallel.make_mesh(config.MeshConfig(data=1), jax.devices()[:1])
    steps, weights = step_functions.build(made, mesh), random_weights(made)
    batch = batch_of_pairs()
    hidden_BSD, _ = model.hidden_states(made.model, weights, batch.inputs, made.execution)
    wanted_BS = np.float64(hidden_BSD) @ np.float64(weights.params["scalar_head"])
    got_BS = steps.scalars(weights, parallel.shard_batch(mesh, batch))
    np.testing.assert_allclose(got_BS, wanted_BS, rtol=1e-4, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("num_micro", [1, 2])
def test_gradients_are_those_of_the_loss_written_with_scalars(made, num_micro):
    weights, batch = random_weights(made), jax.tree.map(jnp.asarray, batch_of_pairs())
    made = config.edit(made, [f"execution.accumulation_steps={num_micro}"])

    def loss(params):
        bound = model.Weights(params, weights.buffers)
        hidden_BSD, _ = model.hidden_states(made.model, bound, batch.inputs, made.execution)
        r_BS = hidden_BSD.astype(jnp.float32) @ params["scalar_head"]
        chosen, rejected = r_BS[:, 3::8], r_BS[:, 7::8]  # the last positions of the answers
        of_pairs = -jax.nn.log_sigmoid(chosen - rejected) + 0.1 * (chosen + rejected) ** 2
        return of_pairs.mean()

    wanted, slopes = jax.jit(jax.value_and_grad(loss))(weights.params)
    grads, seen = gradients(weights, batch, made)
    np.testing.assert_allclose(seen.sums["loss"], wanted, rtol=1e-5)
    assert not np.any(grads["head"]) and np.any(grads["embed"])
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5),
        grads,
        slopes,
    )


def test_scalars_of_a_model_without_the_head_are_refused(made):
    shape = dataclasses.replace(made.model, scalar_head=False)
    with pytest.raises(ValueError, match=r"scalars need a model with model\.scalar_head=true"):
        model.scalars(shape, {}, jnp.zeros((B, S, shape.hidden_size)))


@pytest.mark.long
@pytest.mark.parametrize("num_micro", [1, 2])
def test_a_column_of_the_batch_reaches_its_micro_batch(made, num_micro):
    """A reference that is shifted by row would change the loss of the others."""
    cached = dpo(0.5, reference="cached")
    made = dataclasses.replace(made, objective=cached)
    made = config.edit(made, [f"execution.accumulation_steps={num_micro}"])
    weights, batch = random_weights(made), batch_of_pairs()
    ref_BS = np.float32(np.random.default_rng(1).normal(-4.0, 2.0, (B, S)))
    placed = jax.tree.map(jnp.asarray, batch._replace(extra={"reference": ref_BS}))
    logp = functools.partial(forward.log_probabilities, cfg=made.model, execution=made.execution)
    logp_BS = jax.jit(logp)(weights, placed)
    _, seen = gradients(weights, placed, made)
    wanted = cached.seen(logp_BS, logp_BS, placed, cached.totals(placed), {}).sums["loss"]
    np.testing.assert_allclose(seen.sums["loss"], wanted, rtol=1e-5)


def test_the_batch_that_a_step_is_compiled_for_has_the_columns_of_its_objective(made):
    mesh = parallel.make_mesh(config.MeshConfig(data=1), jax.devices()[:1])
    batch = step_functions.abstract_batch(B, S, mesh, ("reference",))
    assert batch.extra["reference"].shape == (B, S)
    assert batch.extra["reference"].dtype == jnp.float32
    assert step_functions.abstract_batch(B, S, mesh).extra == {}
