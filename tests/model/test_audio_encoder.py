"""The sound encoder: states equal a reference's, and what follows a sound changes nothing."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kanana_jax import config
from kanana_jax.model import presets
from kanana_jax.model.audio import Encoder

pytestmark = pytest.mark.slow

GOLDEN = np.load(Path(__file__).with_name("audio_golden.npz"))
SHAPE = config.AudioConfig(hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24)
CFG = dataclasses.replace(presets.tiny(258), audio=SHAPE)
# Our names and Whisper's, where a product's weight is (outputs, inputs).
OF_LAYER = {
    "attention_norm.gamma": "self_attn_layer_norm.weight",
    "attention_norm.beta": "self_attn_layer_norm.bias",
    "wq": "self_attn.q_proj.weight",
    "bq": "self_attn.q_proj.bias",
    "wk": "self_attn.k_proj.weight",
    "wv": "self_attn.v_proj.weight",
    "bv": "self_attn.v_proj.bias",
    "wo": "self_attn.out_proj.weight",
    "bo": "self_attn.out_proj.bias",
    "mlp_norm.gamma": "final_layer_norm.weight",
    "mlp_norm.beta": "final_layer_norm.bias",
    "up.w": "fc1.weight",
    "up.b": "fc1.bias",
    "down.w": "fc2.weight",
    "down.b": "fc2.bias",
}


def golden(name, shape):
    """A stored array in our layout: inputs before outputs, taps of convolutions first."""
    found = GOLDEN[name]
    return found.transpose().reshape(shape) if found.ndim > 1 else found.reshape(shape)


def filled(encoder):
    """The encoder with stored weights; the abstractor, not in the reference, stays as it is."""
    names = {
        "final_norm.gamma": "layer_norm.weight",
        "final_norm.beta": "layer_norm.bias",
        "conv1_bias": "conv1.bias",
        "conv2_bias": "conv2.bias",
    }
    for path, name in names.items():
        place = at(encoder, path)
        place[...] = jnp.asarray(golden(name, place.shape))
    for name in ("conv1", "conv2"):
        place = getattr(encoder, name)
        place[...] = jnp.asarray(golden(f"{name}.weight", place.shape))
    for path, name in OF_LAYER.items():
        place = at(encoder.layers, path)
        layers = [golden(f"layers.{n}.{name}", place.shape[1:]) for n in range(SHAPE.num_layers)]
        place[...] = jnp.asarray(np.stack(layers))
    return encoder


def at(module, path):
    for name in path.split("."):
        module = getattr(module, name)
    return module


@pytest.fixture(scope="module")
def encoder():
    return filled(Encoder(CFG, presets.LAPTOP, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def encode(encoder):
    graph, state = nnx.split(encoder)
    return jax.jit(lambda mel, lengths: nnx.merge(graph, state)(mel, lengths))


def test_states_are_those_of_transformers(encode):
    got = encode(GOLDEN["frames"], np.full(2, 40))
    np.testing.assert_allclose(got.states_BSD, GOLDEN["states"], atol=1e-5)
    assert got.positions_BNW.shape == (2, 4, 128)
    assert got.max_logits_LH.shape == (2, 2) and np.isfinite(got.max_logits_LH).all()


def test_what_is_behind_a_sound_changes_nothing_in_it(encode):
    """17 frames make 9 states, which are 2 positions."""
    frames = GOLDEN["frames"].copy()
    lengths = np.array([40, 17])
    other = frames.copy()
    other[1, 17:] = 99.0
    one, two = (encode(x, lengths) for x in (frames, other))
    assert one.num_positions_B.tolist() == [4, 2]
    np.testing.assert_array_equal(one.states_BSD[1, :9], two.states_BSD[1, :9])
    np.testing.assert_array_equal(one.positions_BNW[1, :2], two.positions_BNW[1, :2])
    np.testing.assert_array_equal(one.max_logits_LH, two.max_logits_LH)
    alone = encode(np.where(np.arange(40)[:, None] < 17, frames, 0), lengths)
    np.testing.assert_array_equal(alone.positions_BNW[1, :2], one.positions_BNW[1, :2])


def test_every_state_sees_all_of_its_sound_and_no_other(encode):
    frames = GOLDEN["frames"].copy()
    frames[1, 39] += 1.0
    one, two = (encode(x, np.full(2, 40)) for x in (GOLDEN["frames"], frames))
    np.testing.assert_array_equal(one.states_BSD[0], two.states_BSD[0])
    assert (np.abs(one.states_BSD[1] - two.states_BSD[1]).max(axis=-1) > 1e-6).all()


def test_a_position_is_a_tenth_of_a_second(encode):
    assert SHAPE.positions_per_second == 10
    with pytest.raises(config.ConfigError, match=r"from 10 positions a second"):
        config.AudioConfig(
            hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24, merge_size=4
        )


def test_frames_that_are_no_whole_positions_are_refused(encoder):
    with pytest.raises(ValueError, match="multiple of 10, got 38"):
        encoder(jnp.zeros((1, 38, 80)), jnp.array([38]))
