"""The codec of speech: causal frames, a codebook that is used, an error that training lowers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kanana_jax.speech import codec

pytestmark = pytest.mark.slow

CFG = codec.CodecConfig(num_codes=16, width=16)


@pytest.fixture(scope="module")
def fresh():
    return codec.init(CFG, jax.random.key(0))


def test_frames_do_not_depend_on_later_codes(fresh):
    e_BND = jax.random.normal(jax.random.key(1), (1, 6, CFG.width))
    changed = e_BND.at[:, 4].add(1.0)
    one, other = (codec.decode(fresh.params, x) for x in (e_BND, changed))
    np.testing.assert_array_equal(one[:, :16], other[:, :16])
    assert np.abs(one[:, 16:] - other[:, 16:]).max() > 1e-3


def test_codes_one_by_one_give_the_frames_of_all(fresh):
    e_BND = jax.random.normal(jax.random.key(1), (2, 5, CFG.width))
    seen, parts = codec.nothing_seen(CFG, 2), []
    for place in range(5):
        frames, seen = codec.decode_next(fresh.params, seen, e_BND[:, place])
        parts.append(frames)
    whole = codec.decode(fresh.params, e_BND)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-6)


def test_nearest_is_the_nearest_by_hand(fresh):
    z_BND = jax.random.normal(jax.random.key(2), (1, 7, CFG.width))
    distance = np.linalg.norm(
        np.asarray(z_BND)[0, :, None] - np.asarray(fresh.book.code_CD), axis=-1
    )
    np.testing.assert_array_equal(codec.nearest(fresh.book.code_CD, z_BND)[0], distance.argmin(1))


def test_idle_codes_are_set_to_sound_and_never_to_padding(fresh):
    z_BND = jnp.concatenate([jnp.ones((1, 4, CFG.width)), jnp.full((1, 4, CFG.width), 9.0)], axis=1)
    is_sound = jnp.arange(8)[None] < 4
    idle = fresh.book._replace(count_C=jnp.zeros(16).at[0].set(100.0))
    book = codec.followed(CFG, idle, z_BND, is_sound, jax.random.key(3))
    np.testing.assert_allclose(book.code_CD[1:], 1.0, rtol=1e-5)


@pytest.mark.long
def test_training_lowers_the_error_and_uses_the_codebook(fresh):
    rng = np.random.default_rng(0)
    kinds = rng.standard_normal((8, 80)) * 0.5  # eight sounds, each held for a token
    mel_BFM = jnp.asarray(np.repeat(kinds[rng.integers(0, 8, (8, 10))], 4, axis=1), jnp.float32)
    is_sound = jnp.ones((8, 10), bool)
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, book, state, key):
        grad = jax.grad(functools.partial(codec.loss, CFG), has_aux=True)
        gradient, (seen, z_BND) = grad(params, book, mel_BFM, is_sound)
        updates, state = optimizer.update(gradient, state)
        book = codec.followed(CFG, book, z_BND, is_sound, key)
        return optax.apply_updates(params, updates), book, state, seen

    (params, book), state, errors = fresh, optimizer.init(fresh.params), []
    for number in range(120):
        params, book, state, seen = step(params, book, state, jax.random.key(number))
        errors.append(float(seen.error))
    assert errors[-1] < 0.2 * errors[0]
    assert codec.use(seen.counts_C)["codes_used"] >= 8 / 16


def test_use_of_a_codebook_by_hand():
    even = codec.use(jnp.array([2.0, 2.0, 0.0, 0.0]))
    assert even["codes_used"] == 0.5
    assert even["codebook_perplexity"] == pytest.approx(0.5)
