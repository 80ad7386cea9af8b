"""Divergences and their gradients against float64 sums over tiny vocabularies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kanana_jax.objectives.distillation import Distillation, Teaching
from kanana_jax.objectives.soft_targets import ForwardKL, ReverseKL, Sampled, TopK

VOCAB, K = 11, 3
NO_DRAWS = jnp.zeros((2, 3, 0))


def logits(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, 3, VOCAB)) * 2.0


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def forward(p, q):
    """The divergence and its gradient by the student's logits."""
    return np.sum(p * np.log(p / q), axis=-1), q - p


def reverse(p, q):
    value = np.sum(q * np.log(q / p), axis=-1)
    return value, q * (np.log(q / p) - value[..., None])


def top_k(p, q):
    order = np.argsort(-p, axis=-1)
    is_top = np.zeros_like(p, dtype=bool)
    np.put_along_axis(is_top, order[..., :K], True, axis=-1)
    p_rest, q_rest = (np.sum(x * ~is_top, axis=-1, keepdims=True) for x in (p, q))
    value = np.sum(np.where(is_top, p * np.log(p / q), 0.0), axis=-1)
    value += np.squeeze(p_rest * np.log(p_rest / q_rest), axis=-1)
    return value, q - np.where(is_top, p, p_rest * q / q_rest)


@pytest.mark.parametrize(
    ("divergence", "by_hand"), [(ForwardKL(), forward), (ReverseKL(), reverse), (TopK(K), top_k)]
)
def test_values_and_gradients_are_those_of_float64(divergence, by_hand):
    teacher, student = logits(0), logits(1)
    read = divergence.read(jnp.asarray(teacher), NO_DRAWS)

    def total(x):
        value = divergence.values(x, read)
        return value.sum(), value

    (_, value), grad = jax.value_and_grad(total, has_aux=True)(jnp.asarray(student))
    wanted, wanted_grad = by_hand(softmax(teacher), softmax(student))
    np.testing.assert_allclose(value, wanted, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(grad, wanted_grad, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_draws_have_the_mean_of_the_whole_distribution(temperature):
    num_trials = 4000
    shape = (num_trials, 3, VOCAB)
    teacher, student = (np.broadcast_to(logits(seed)[:1], shape) for seed in (0, 1))
    divergence = Sampled(K, temperature)
    uniform = np.random.default_rng(2).uniform(size=(num_trials, 3, K))
    read = divergence.read(jnp.asarray(teacher), jnp.asarray(uniform))
    assert [(x.dtype, x.shape[-1]) for x in read] == list(divergence.columns.values())

    def total(x):
        value = divergence.values(x, read)
        return value.sum(), value

    (_, value), grad = jax.value_and_grad(total, has_aux=True)(jnp.asarray(student))
    for found, wanted in zip(
        (np.asarray(value), np.asarray(grad)),
        forward(softmax(teacher[0]), softmax(student[0])),
        strict=True,
    ):
        error = found.std(axis=0) / np.sqrt(num_trials)
        np.testing.assert_array_less(np.abs(found.mean(axis=0) - wanted), 5.0 * error + 1e-6)
    if temperature != 1.0:
        assert np.ptp(read[2]) > 0.1  # weights are not all one number


def test_parts_of_the_probability_vary_less_than_independent_draws():
    p = softmax(logits(0))[:1, :1]
    uniform = np.random.default_rng(2).uniform(size=(1, 1, 8))
    ids, *_ = Sampled(8).read(jnp.log(p), jnp.asarray(uniform))
    counts = np.bincount(np.asarray(ids).ravel(), minlength=VOCAB)
    np.testing.assert_array_less(np.abs(counts - 8 * p.ravel()), 2.0)
    assert np.all(np.diff(np.asarray(ids).ravel()) >= 0)


@pytest.mark.long
def test_the_likeliest_tokens_keep_the_mass_of_all_others():
    """The student that minimises TopK gives them the teacher's mass, neither 0 nor 1."""
    teacher = jnp.log(1.0 / jnp.arange(1.0, 65.0))[None, None]  # Zipf's law
    read = TopK(4).read(teacher, NO_DRAWS)
    student = jnp.zeros_like(teacher)
    slope = jax.jit(jax.grad(lambda x: TopK(4).values(x, read).sum()))
    for _ in range(300):
        student -= 2.0 * slope(student)
    of_top = [float(jax.nn.softmax(x)[..., :4].sum()) for x in (student, teacher)]
    assert of_top[0] == pytest.approx(of_top[1], abs=1e-3) and of_top[1] < 0.5


def test_as_many_tokens_as_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match="fewer than the 11 of the vocabulary, got 11"):
        TopK(VOCAB).read(jnp.zeros((1, 1, VOCAB)), NO_DRAWS)


def test_terms_out_of_range_are_refused():
    with pytest.raises(ValueError, match="weight must be a positive number, got 0"):
        Teaching(ForwardKL(), weight=0.0)
    with pytest.raises(ValueError, match="ce_weight must be a number from 0, got -1"):
        Distillation(Teaching(ForwardKL()), ce_weight=-1.0)
    with pytest.raises(ValueError, match="reads the teacher's whole distribution"):
        Teaching(ForwardKL(), is_live=False)
