"""An answer says what was drawn, how likely it was, by which weights and experts."""

import json

import numpy as np
import pytest
import small_engine

from kanana_jax.generate import Answer, Request, Sampling, answers
from kanana_jax.generate.answers import from_json, to_json


def test_every_token_has_a_likelihood_and_a_version(cfg, weights):
    found = answers(small_engine.make(cfg, weights, version=7), small_engine.mixed(cfg))
    for one in found:
        assert len(one.logps) == len(one.versions) == len(one.ids)
        assert set(one.versions) == {7}
        assert all(-20 < logp <= 0 for logp in one.logps)
    assert len({logp for one in found for logp in one.logps}) > 30


def test_greedy_tokens_are_certain(cfg, weights):
    how = Sampling(temperature=0.0)
    [one] = answers(
        small_engine.make(cfg, weights), [Request(prompt=[1, 2], max_tokens=6, sampling=how)]
    )
    assert set(one.logps) == {0.0}


def test_routes_are_of_all_positions_but_the_last(cfg, weights):
    requests = small_engine.mixed(cfg)
    found = answers(small_engine.make(cfg, weights), requests)
    for one, request in zip(found, requests, strict=True):
        num_read = len(request.prompt) + len(one.ids) - 1
        top_k = cfg.num_experts_per_token
        assert one.routes is not None
        assert one.routes.shape == (num_read, cfg.num_moe_layers, top_k)
        ordered = np.sort(one.routes, axis=-1)
        assert (ordered[..., 1:] > ordered[..., :-1]).all()  # K different experts
        assert ordered.min() >= 0 and ordered.max() < cfg.num_experts


def test_pieces_have_the_routes_of_what_was_read_for_them(cfg, weights):
    request = small_engine.mixed(cfg)[3]
    pieces = list(small_engine.make(cfg, weights).run([request]))
    lengths = [len(one.routes) for one in pieces]
    assert lengths == [len(request.prompt)] + [1] * (len(pieces) - 1)


@pytest.mark.long
def test_routes_are_there_when_asked_for_and_change_nothing_else(cfg, weights):
    requests = small_engine.mixed(cfg)
    with_routes = answers(small_engine.make(cfg, weights), requests)
    without = answers(small_engine.make(cfg, weights, with_routes=False), requests)
    small_engine.assert_same([one._replace(routes=None) for one in with_routes], without)


def test_an_answer_comes_back_from_json_bit_for_bit(cfg, weights):
    engine = small_engine.make(cfg, weights, version=3)
    found = answers(engine, small_engine.mixed(cfg))
    told = json.loads(json.dumps([to_json(one) for one in found]))
    back = [from_json(one) for one in told]
    small_engine.assert_same(back, found)
    assert {one.routes.dtype for one in back} == {found[0].routes.dtype}


def test_an_answer_without_numbers_comes_back_from_json():
    one = Answer((1, 2), "ab", True)
    assert from_json(json.loads(json.dumps(to_json(one)))) == one
