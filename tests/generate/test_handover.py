"""Weights are handed over without a copy, and training's own are as good as decoding's."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_decoder
import small_engine

from kanana_jax import config
from kanana_jax.errors import UserError
from kanana_jax.generate import answers, decoder, unstacked
from kanana_jax.model import decoding, presets


def _other(weights):
    return jax.tree.map(lambda x: x * 1.01, weights)


def test_an_update_copies_nothing(cfg, stacks):
    engine = small_engine.make(cfg, stacks)
    other = _other(stacks)
    before = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(other)]
    live = {id(x) for x in jax.live_arrays()}
    engine.update(other, 1)
    assert {id(x) for x in jax.live_arrays()} <= live
    held = jax.tree.leaves(engine._device.weights)
    assert all(one is leaf for one, leaf in zip(held, jax.tree.leaves(other), strict=True))
    assert [leaf.unsafe_buffer_pointer() for leaf in held] == before


@pytest.mark.slow
def test_after_an_update_answers_are_those_of_the_new_weights(cfg, stacks):
    requests = small_engine.mixed(cfg)
    engine = small_engine.make(cfg, stacks)
    first = answers(engine, requests)
    engine.update(_other(stacks), 5)
    want = answers(small_engine.make(cfg, _other(stacks), version=5), requests)
    small_engine.assert_same(answers(engine, requests), want)
    assert [one.logps for one in first] != [one.logps for one in want]
    assert {version for one in want for version in one.versions} == {5}


def test_weights_are_not_exchanged_under_a_running_request(cfg, stacks):
    engine = small_engine.make(cfg, stacks)
    for request in small_engine.mixed(cfg)[:4]:
        engine.submit(request)
    engine.update(stacks, 1)  # all wait
    seen = engine.step()
    with pytest.raises(UserError, match="got 3 running; finish them, or cancel them"):
        engine.update(_other(stacks), 2)
    assert engine.version == 1
    while engine.num_running:
        engine.cancel(next(one.number for one in engine._rows if one))
    engine.update(_other(stacks), 2)
    assert {one.version for one in seen} == {1}
    assert {one.version for one in engine.step()} == {2}  # of the one that waited


def test_trainings_stacks_give_the_same_bits(cfg, stacks, weights):
    requests = small_engine.mixed(cfg)
    want = answers(small_engine.make(cfg, weights), requests)
    small_engine.assert_same(answers(small_engine.make(cfg, stacks), requests), want)


@pytest.mark.long
@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_stacks_in_bfloat16_give_what_layers_in_bfloat16_do(tie_embeddings):
    cfg = dataclasses.replace(small_decoder.SHALLOW, tie_embeddings=tie_embeddings)
    stacks = small_decoder.random_weights(cfg)
    execution = config.ExecutionConfig(compute_dtype="bfloat16")
    zero, tokens = np.zeros(1, np.int32), np.arange(8, dtype=np.int32)
    found = []
    for weights in (unstacked.from_stacks(cfg, stacks, jnp.bfloat16), stacks):
        cache = decoder.init_cache(cfg, execution, 1, 16)
        read, cache, *_ = decoder.prefill(
            cfg, execution, weights, cache, zero, tokens[None], zero, zero + 7
        )
        drawn, cache, _ = decoder.decode(cfg, execution, weights, cache, tokens[:1], zero + 8)
        found.append((read, drawn, cache))
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_matrices_are_cast_and_norms_and_routers_are_not(cfg, stacks):
    made = unstacked.from_stacks(cfg, stacks, jnp.bfloat16)
    for index, layer in enumerate(made.layers):
        specs = decoding.describe_layer(cfg, is_moe=index >= cfg.num_dense_layers)
        for leaf, spec in zip(jax.tree.leaves(layer.block), jax.tree.leaves(specs), strict=True):
            is_wide = spec.role in ("norm", "router")
            assert leaf.dtype == (jnp.float32 if is_wide else jnp.bfloat16), spec
        assert layer.bias_E.dtype == jnp.float32
    assert (made.embed_VD.dtype, made.head_DV.dtype) == (jnp.float32, jnp.bfloat16)


def test_layers_are_those_of_the_stacks(cfg, stacks):
    made = unstacked.from_stacks(cfg, stacks)
    for index, layer in enumerate(made.layers):
        stack, place = unstacked.locate(cfg, index)
        want = decoding.prepare(cfg, jax.tree.map(lambda x, p=place: x[p], stacks.params[stack]))
        jax.tree.map(np.testing.assert_array_equal, layer.block, want)
        if stack == "moe_layers":
            np.testing.assert_array_equal(layer.bias_E, stacks.buffers["router_bias"][place])
    assert presets.LAPTOP.compute_dtype == made.head_DV.dtype
