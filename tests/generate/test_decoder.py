"""Decoding over the latent cache against the full forward pass."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_decoder

from kanana_jax import model
from kanana_jax.generate import decoder
from kanana_jax.model import presets


@functools.lru_cache
def _apply(cfg):
    return jax.jit(functools.partial(model.apply, cfg))


def _full(cfg, weights, tokens):
    tokens_BS = jnp.asarray(tokens, jnp.int32)[None]
    positions = jnp.arange(tokens_BS.shape[1])[None]
    logits, _ = _apply(cfg)(
        weights["params"], weights["router_bias"], tokens_BS, positions, jnp.ones_like(tokens_BS)
    )
    return np.asarray(logits[0])


def _assert_close(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("prompt_length", [3, 8, 11])  # under one chunk, one, and over one
def test_prefill_and_decode_equal_the_full_forward(cfg, weights, prompt_length):
    tokens = np.random.default_rng(1).integers(0, cfg.vocab_size, 16).astype(np.int32)
    want = _full(cfg, weights, tokens)
    cache = decoder.init_cache(cfg, 2, 32)
    for start in range(0, prompt_length, 8):
        part = tokens[start : min(start + 8, prompt_length)]
        padded = np.pad(part, (0, 8 - len(part)))
        logits, cache = decoder.prefill(
            cfg, weights, cache, jnp.int32(1), padded, jnp.int32(start), jnp.int32(len(part) - 1)
        )
    _assert_close(logits, want[prompt_length - 1])
    for position in range(prompt_length, 16):
        both = np.array([5, tokens[position]], np.int32)  # row 0 is some other sequence
        logits, cache = decoder.decode(cfg, weights, cache, both, np.array([0, position], np.int32))
        _assert_close(logits[1], want[position])


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"q_lora_rank": None, "yarn": None, "tie_embeddings": True},
        {"num_dense_layers": 3},
        {"num_dense_layers": 0, "zero_centered_gamma": True, "num_shared_experts": 0},
    ],
)
def test_every_part_of_the_family_decodes(cfg, changes):
    cfg = dataclasses.replace(cfg, **changes)
    weights = small_decoder.random_weights(cfg)
    tokens = np.random.default_rng(1).integers(0, cfg.vocab_size, 8).astype(np.int32)
    want = _full(cfg, weights, tokens)
    cache = decoder.init_cache(cfg, 1, 8)
    for position in range(8):
        logits, cache = decoder.decode(
            cfg, weights, cache, tokens[position : position + 1], np.array([position], np.int32)
        )
        _assert_close(logits[0], want[position])


def test_the_cache_of_kanana_2_holds_576_numbers_per_layer_and_token():
    cfg = presets.kanana_2_30b_a3b()
    shape = jax.eval_shape(lambda: decoder.init_cache(cfg, 1, 1)).shape
    assert shape == (48, 1, 1, 576)
