"""The head's pass with a teacher against both models' whole logits in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kanana_jax import config, parallel
from kanana_jax.batch import Batch
from kanana_jax.model import presets
from kanana_jax.objectives.distillation import Distillation, Teaching
from kanana_jax.objectives.soft_targets import ForwardKL, ReverseKL, Sampled, TopK
from kanana_jax.train import head, teacher

STUDENT = dataclasses.replace(presets.tiny(67), hidden_size=16, tie_embeddings=False)
TEACHER = dataclasses.replace(STUDENT, hidden_size=24, tie_embeddings=True)
SHAPE = (8, 12)
CE, KL, Z = 0.3, 0.7, 0.1


def arrays():
    rng = np.random.default_rng(0)
    batch = Batch.of_tokens(rng.integers(0, 67, (SHAPE[0], SHAPE[1] + 1)))
    batch = batch._replace(loss_mask=rng.binomial(1, 0.8, SHAPE).astype(np.float32))
    made = (
        {"head": rng.normal(size=(16, 67)) / 4.0},
        rng.normal(size=(*SHAPE, 16)),
        {"embed": rng.normal(size=(67, 24)) / 5.0},
        rng.normal(size=(*SHAPE, 24)),
    )
    return batch, *jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), made)


def taught(divergence, batch, of_teacher, params, hidden, chunk_tokens):
    """What the head gives; `of_teacher` has the teacher's params and hidden states, or is None."""
    live = of_teacher and head.Other(TEACHER, *of_teacher)
    teaching = Teaching(divergence, KL, is_live=live is not None)
    objective = Distillation(teaching, CE, Z)
    totals = objective.totals(batch)
    return teacher.losses(
        STUDENT,
        params,
        hidden,
        batch,
        objective.coefficients(None, batch, totals, {}),
        teacher.Teacher(teaching, live, totals),
        z_weight=Z,
        chunk_tokens=chunk_tokens,
    )


def by_hand(divergence, batch, of_teacher, params, hidden):
    """The loss from all logits at once, in float64: value and gradients by params and hidden."""
    student, other = (np.asarray(x, np.float64) for x in (params["head"], of_teacher[0]["embed"]))
    h, g = (np.asarray(x, np.float64) for x in (hidden, of_teacher[1]))
    x, y = h @ student, g @ other.T
    logz = np.log(np.exp(x).sum(axis=-1))
    logq = x - logz[..., None]
    logp = y - np.log(np.exp(y).sum(axis=-1))[..., None]
    p, q = np.exp(logp), np.exp(logq)
    if divergence == ForwardKL():
        value, slope = np.sum(p * (logp - logq), axis=-1), q - p
    else:
        value = np.sum(q * (logq - logp), axis=-1)
        slope = q * (logq - logp - value[..., None])
    is_target = np.asarray(batch.targets)[..., None] == np.arange(67)
    nll = -logq[is_target].reshape(SHAPE)
    w = np.asarray(batch.loss_mask, np.float64) / batch.loss_mask.sum()
    loss = np.sum(w * (CE * (nll + Z * logz**2) + KL * value))
    of_logits = CE * ((1 + 2 * Z * logz)[..., None] * q - is_target) + KL * slope
    of_logits *= w[..., None]
    return loss, np.einsum("bsd,bsv->dv", h, of_logits), of_logits @ student.T, np.sum(w * value)


@pytest.mark.parametrize(
    ("divergence", "chunk_tokens"),
    [(ForwardKL(), 1 << 20), (ForwardKL(), 7), (ReverseKL(), 40)],
)
def test_loss_and_gradients_are_those_of_whole_logits_in_float64(divergence, chunk_tokens):
    batch, params, hidden, *of_teacher = arrays()

    def ours(params, hidden):
        loss, _, _, report = taught(divergence, batch, of_teacher, params, hidden, chunk_tokens)
        return 3.0 * loss, report  # the gradient from other losses is not 1

    (loss, report), grads = jax.jit(jax.value_and_grad(ours, argnums=(0, 1), has_aux=True))(
        params, hidden
    )
    wanted, of_head, of_hidden, value = by_hand(divergence, batch, of_teacher, params, hidden)
    np.testing.assert_allclose(loss / 3.0, wanted, rtol=2e-6)
    np.testing.assert_allclose(report["divergence"], value, rtol=2e-6)
    np.testing.assert_allclose(grads[0]["head"] / 3.0, of_head, rtol=2e-4, atol=2e-7)
    np.testing.assert_allclose(grads[1] / 3.0, of_hidden, rtol=2e-4, atol=2e-8)


def stored(divergence, batch, of_teacher, chunk_tokens):
    """`batch` with the columns of a teacher that is gone."""
    uniform = np.random.default_rng(3).uniform(size=(*SHAPE, divergence.num_draws))
    params, hidden = of_teacher
    found = head.of_tokens(
        divergence.read,
        (TEACHER, params, hidden),
        (jnp.asarray(uniform, jnp.float32),),
        num_dims=(3,) * len(divergence.columns),
        chunk_tokens=chunk_tokens,
    )
    return batch._replace(extra=dict(zip(divergence.columns, found, strict=True)))


def test_a_stored_teacher_gives_the_loss_and_gradients_of_a_live_one():
    batch, params, hidden, *of_teacher = arrays()
    divergence = TopK(5)
    given = stored(divergence, batch, of_teacher, chunk_tokens=24)

    def grads(batch, of_teacher):
        def loss(*args):
            return taught(divergence, batch, of_teacher, *args, 40)[0]

        return jax.value_and_grad(loss, argnums=(0, 1))(params, hidden)

    live, kept = grads(batch, of_teacher), grads(given, None)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), live, kept)
    assert float(live[0]) > 0.1


@pytest.mark.parametrize("is_live", [True, False])
@pytest.mark.long
def test_eight_devices_give_the_gradients_of_one(is_live):
    batch, params, hidden, *of_teacher = arrays()
    divergence = ForwardKL() if is_live else Sampled(4)
    given = batch if is_live else stored(divergence, batch, of_teacher, chunk_tokens=40)

    def grads(batch, of_teacher, *args):
        def loss(*args):
            return taught(divergence, batch, of_teacher if is_live else None, *args, 16)[0]

        return jax.value_and_grad(loss, argnums=(0, 1))(*args)

    alone = jax.jit(grads)(given, of_teacher, params, hidden)
    mesh = parallel.make_mesh(config.MeshConfig(data=2, fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        spread = jax.jit(grads)(given, of_teacher, params, hidden)
        again = jax.jit(stored, static_argnums=(0, 3))(Sampled(4), batch, of_teacher, 16).extra
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), spread, alone)
    if not is_live:
        np.testing.assert_array_equal(again["teacher_ids"], given.extra["teacher_ids"])
