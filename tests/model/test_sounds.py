"""A decoder with a sound encoder: what goes where, and what does not change."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_model import AUDIO, SMALL, VISION, init, jit, weights

from kanana_jax import model
from kanana_jax.batch import Sounds
from kanana_jax.model import encoders, presets
from kanana_jax.optim import qk_clip

CFG = dataclasses.replace(SMALL, num_layers=1, num_dense_layers=0, audio=AUDIO)
NUM_POSITIONS, FRAMES = 12, 30  # of which an encoder makes 3 slots
TOKENS = np.random.default_rng(0).integers(0, SMALL.vocab_size, (1, NUM_POSITIONS), dtype=np.int32)


def _sounds(num_frames, slots=None):
    """Two sounds in one row; without `slots` no position has a slot."""
    rng = np.random.default_rng(1)
    frames = rng.standard_normal((1, 2, FRAMES, AUDIO.num_bands)).astype(np.float16)
    slots = np.full((1, NUM_POSITIONS), -1, np.int32) if slots is None else slots
    return Sounds(frames, np.array([num_frames], np.int32), slots)


@pytest.fixture(scope="module")
def apply():
    run = jit(functools.partial(model.apply, CFG, execution=presets.LAPTOP))
    inputs = model.Inputs.of_tokens(jnp.asarray(TOKENS))
    return lambda features: run(weights(CFG), inputs._replace(features=features))


@pytest.mark.long
def test_text_is_read_to_the_bit_as_by_a_model_without_an_encoder(apply):
    text = dataclasses.replace(CFG, audio=None)
    params = {name: x for name, x in weights(CFG).params.items() if name != "audio"}
    want, of_text = jit(functools.partial(model.apply, text, execution=presets.LAPTOP))(
        weights(CFG)._replace(params=params), model.Inputs.of_tokens(jnp.asarray(TOKENS))
    )
    for features in (None, _sounds([30, 21])):
        got, aux = apply(features)
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(aux.max_logits[:1], of_text.max_logits)
    assert np.isneginf(apply(None)[1].max_logits[1:]).all()
    assert np.isfinite(apply(_sounds([30, 21]))[1].max_logits[1:]).all()


def test_a_slot_stands_where_it_is_said_to_and_is_of_its_sound(apply):
    slots = np.full((1, NUM_POSITIONS), -1, np.int32)
    slots[0, 4:6] = 2, 3  # the last slot of the first sound, and the first of the second
    before, _ = apply(_sounds([30, 21], slots))
    heard = _sounds([30, 21], slots)
    for number, changed in ((0, 4), (1, 5)):
        frames = heard.frames.copy()
        frames[0, number] += 1.0
        after, _ = apply(heard._replace(frames=frames))
        is_same = (np.asarray(after) == np.asarray(before)).all(axis=-1)[0]
        assert is_same[:changed].all() and not is_same[changed]
    frames = heard.frames.copy()
    frames[0, 1, 21:] = 9.0  # after the end of the second sound
    after, _ = apply(heard._replace(frames=frames))
    np.testing.assert_array_equal(after, before)


@pytest.mark.long
def test_qk_clip_scales_the_heads_of_the_encoder_behind_those_of_images():
    cfg = dataclasses.replace(CFG, vision=VISION)
    params = init(cfg)
    clip = qk_clip(1.0, jax.tree.map(lambda spec: spec.qk_clip, model.describe(cfg)))
    num_layers = cfg.num_layers + VISION.num_layers + AUDIO.num_layers
    max_logits = np.zeros((num_layers, cfg.num_heads), np.float32)
    max_logits[-1, 1] = 4.0
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = jit(clip.update)(zeros, clip.init(params), params, max_logits=max_logits)

    @jit
    def largest(params):
        bound = model.bind(cfg, params, presets.LAPTOP)
        return bound.audio.slots(jax.tree.map(jnp.asarray, _sounds([30, 30])))[1]

    before, after = largest(params), largest(jax.tree.map(np.add, params, updates))
    np.testing.assert_allclose(after, before * np.array([[1.0, 0.25]]), rtol=1e-5)
    rest = {name: x for name, x in updates.items() if name != "audio"}
    assert not any(np.any(x) for x in jax.tree.leaves(rest))


def test_sounds_without_an_encoder_are_refused():
    with pytest.raises(ValueError, match=r"Sounds as features .* got model\.audio = None"):
        encoders.kind_of(SMALL, _sounds([1, 1]))
