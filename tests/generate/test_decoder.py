"""Decoding over the cache against the full forward pass."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_decoder

from kanana_jax import model
from kanana_jax.generate import decoder, unstacked
from kanana_jax.model import presets

EXECUTION = presets.LAPTOP
GROUPED = {
    "num_heads": 4,
    "num_kv_heads": 2,
    "q_lora_rank": None,
    "kv_lora_rank": None,
    "qk_nope_head_dim": 0,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}


@functools.lru_cache
def _apply(cfg):
    return jax.jit(functools.partial(model.apply, cfg, execution=EXECUTION))


def _full(cfg, weights, tokens):
    logits, _ = _apply(cfg)(weights, model.Inputs.of_tokens(jnp.asarray(tokens, jnp.int32)[None]))
    return np.asarray(logits[0])


def _assert_close(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("prompt_length", [3, 8, 11])  # under one chunk, one, and over one
def test_prefill_and_decode_equal_the_full_forward(cfg, stacks, weights, prompt_length):
    tokens = np.random.default_rng(1).integers(0, cfg.vocab_size, 16).astype(np.int32)
    want = _full(cfg, stacks, tokens)
    cache = decoder.init_cache(cfg, EXECUTION, 2, 32)
    for start in range(0, prompt_length, 8):
        part = tokens[start : min(start + 8, prompt_length)]
        padded = np.pad(part, (0, 8 - len(part)))
        logits, cache, *_ = decoder.prefill(
            cfg,
            EXECUTION,
            weights,
            cache,
            np.array([1], np.int32),
            padded[None],
            np.array([start], np.int32),
            np.array([len(part) - 1], np.int32),
        )
    _assert_close(logits[0], want[prompt_length - 1])
    for position in range(prompt_length, 16):
        both = np.array([5, tokens[position]], np.int32)  # row 0 is some other sequence
        logits, cache, _ = decoder.decode(
            cfg, EXECUTION, weights, cache, both, np.array([0, position], np.int32)
        )
        _assert_close(logits[1], want[position])


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        {"q_lora_rank": None, "yarn": None, "tie_embeddings": True, "swiglu_clamp": 0.02}
        | {"norm_gain": "none"},
        {"num_dense_layers": 0, "zero_centered_gamma": True, "num_shared_experts": 0}
        | {"norm_gain": "scalar"},
        GROUPED,
        GROUPED | {"num_kv_heads": 4, "qk_norm": True, "num_dense_layers": 2},
    ],
)
def test_every_part_of_the_family_decodes(cfg, changes):
    cfg = dataclasses.replace(cfg, num_layers=2, **changes)
    stacks = small_decoder.random_weights(cfg)
    weights = unstacked.from_stacks(cfg, stacks)
    tokens = np.random.default_rng(1).integers(0, cfg.vocab_size, 8).astype(np.int32)
    want = _full(cfg, stacks, tokens)
    cache = decoder.init_cache(cfg, EXECUTION, 1, 8)
    for position in range(8):
        logits, cache, _ = decoder.decode(
            cfg,
            EXECUTION,
            weights,
            cache,
            tokens[position : position + 1],
            np.array([position], np.int32),
        )
        _assert_close(logits[0], want[position])


def test_the_cache_of_kanana_2_holds_576_numbers_per_layer_and_token():
    cfg = presets.kanana_2_30b_a3b()
    cache = jax.eval_shape(lambda: decoder.init_cache(cfg, EXECUTION, 1, 1))
    assert [layer.shape for layer in cache] == [(1, 1, 576)] * 48


@pytest.mark.long
def test_scores_are_the_log_probabilities_of_the_full_forward(cfg, stacks, weights):
    tokens = np.random.default_rng(1).integers(0, cfg.vocab_size, 16).astype(np.int32)
    want = np.asarray(jax.nn.log_softmax(_full(cfg, stacks, tokens)))
    cache = decoder.init_cache(cfg, EXECUTION, 2, 32)
    for start in (0, 8):
        part = np.tile(tokens[start : start + 8], (2, 1))
        targets = np.stack([np.roll(tokens, -1)[start : start + 8], part[0]])
        got, best, cache = decoder.score(
            cfg, EXECUTION, weights, cache, part, np.full(2, start, np.int32), targets
        )
        rows = want[start : start + 8]
        for row in range(2):
            np.testing.assert_allclose(got[row], rows[np.arange(8), targets[row]], atol=2e-5)
            np.testing.assert_array_equal(best[row], rows.argmax(axis=-1))


@pytest.mark.long
def test_a_position_beyond_the_cache_is_not_written(cfg, weights):
    cache = decoder.init_cache(cfg, EXECUTION, 1, 8)
    tokens = np.arange(8, dtype=np.int32)
    zero = np.zeros(1, np.int32)
    _, cache, *_ = decoder.prefill(
        cfg, EXECUTION, weights, cache, zero, tokens[None], zero, zero + 7
    )
    before = [np.asarray(layer) for layer in cache]
    eight = np.array([8], np.int32)
    _, cache, _ = decoder.decode(cfg, EXECUTION, weights, cache, tokens[:1], eight)
    for one, other in zip(before, cache, strict=True):
        np.testing.assert_array_equal(one, other)
