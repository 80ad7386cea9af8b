"""Prompts read together: what is compiled for them, and that nobody's answer changes."""

import collections

import numpy as np
import pytest
import small_engine
from hypothesis import given, settings
from hypothesis import strategies as st

from kanana_jax.generate import Request, Sampling, answers, decoder, prompts
from kanana_jax.model import presets


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=9),
    chunk=st.sampled_from([8, 32, 100]),
    at_once=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_every_token_is_read_once_and_in_order(lengths, chunk, at_once):
    rows = {2 * row: np.arange(length) + 1000 * row for row, length in enumerate(lengths)}
    read = collections.defaultdict(list)
    ended = []
    for part in prompts.parts(rows, chunk=chunk, at_once=at_once, num_rows=40):
        assert part.tokens_NS.shape[0] == at_once
        assert len(set(part.row_N.tolist())) == at_once
        for place, row in enumerate(part.row_N.tolist()):
            if place >= len(part.rows):
                assert row >= 40
                continue
            assert row == part.rows[place] not in ended
            length = part.lengths[place]
            assert part.start_N[place] == len(read[row])
            assert part.last_N[place] == length - 1
            assert part.tokens_NS.shape[1] == decoder.padded_chunk(length, chunk)
            read[row] += part.tokens_NS[place, :length].tolist()
            if part.is_end[place]:
                ended.append(row)
    assert read == {row: ids.tolist() for row, ids in rows.items()}
    assert sorted(ended) == sorted(rows)


@pytest.mark.parametrize("prompts_at_once", [1, 4])
def test_answers_are_the_same_bits_alone_and_together(cfg, weights, prompts_at_once):
    requests = small_engine.mixed(cfg)

    def engine():
        return small_engine.make(cfg, weights, prompts_at_once=prompts_at_once)

    lonely = engine()
    alone = [answers(lonely, [one])[0] for one in requests]
    small_engine.assert_same(answers(engine(), requests), alone)
    small_engine.assert_same(answers(engine(), requests[::-1])[::-1], alone)


def test_answers_of_prompts_read_together_are_those_of_prompts_read_alone(cfg, weights):
    requests = small_engine.mixed(cfg)
    one_by_one = answers(small_engine.make(cfg, weights, prompts_at_once=1), requests)
    together = answers(small_engine.make(cfg, weights, prompts_at_once=4), requests)
    assert [one.ids for one in together] == [one.ids for one in one_by_one]
    for one, other in zip(together, one_by_one, strict=True):
        np.testing.assert_allclose(one.logps, other.logps, rtol=0, atol=5e-6)


def _num_read(monkeypatch):
    """Counts the prompts' chunks that are read from now on."""
    read, prefill = [], decoder.prefill

    def counted(cfg, execution, weights, cache, row_B, *rest, **options):
        num_rows = cache[0].shape[0]
        read.append(int((row_B < num_rows).sum()))
        return prefill(cfg, execution, weights, cache, row_B, *rest, **options)

    monkeypatch.setattr(decoder, "prefill", counted)
    return read


@pytest.mark.parametrize(("prompts_at_once", "calls"), [(1, [1, 1]), (4, [2])])
def test_of_equal_prompts_one_is_read(cfg, weights, monkeypatch, prompts_at_once, calls):
    requests = [
        Request(prompt=prompt, max_tokens=6, sampling=Sampling(seed=seed))
        for seed, prompt in enumerate([[1, 2, 3], [4, 5, 6], [1, 2, 3]])
    ]
    lonely = small_engine.make(cfg, weights, prompts_at_once=prompts_at_once)
    alone = [answers(lonely, [one])[0] for one in requests]
    read = _num_read(monkeypatch)
    engine = small_engine.make(cfg, weights, prompts_at_once=prompts_at_once)
    small_engine.assert_same(answers(engine, requests), alone)
    assert read == calls
    assert alone[0].ids != alone[2].ids


def test_a_prompt_beyond_the_cache_is_written_nowhere(cfg, weights):
    def prefill(cache, rows):
        tokens = np.arange(32, dtype=np.int32).reshape(4, 8)
        zero = np.zeros(4, np.int32)
        ids = np.array(rows, np.int32)
        return decoder.prefill(
            cfg, presets.LAPTOP, weights, cache, ids, tokens, zero, zero + 7, with_routes=True
        )

    def zeros():
        return decoder.init_cache(cfg, presets.LAPTOP, 3, 48)

    logits, cache, routes, _ = prefill(zeros(), [1, 3, 4, 5])
    for layer in cache:
        assert [bool(np.asarray(row).any()) for row in layer] == [False, True, False]
    both, full, both_routes, _ = prefill(zeros(), [1, 0, 2, 3])
    np.testing.assert_array_equal(logits[0], both[0])
    np.testing.assert_array_equal(routes[0], both_routes[0])
    for layer, other in zip(cache, full, strict=True):
        np.testing.assert_array_equal(layer[1], other[1])


def test_rows_are_copied_and_no_other_changes():
    rng = np.random.default_rng(0)
    cache = tuple(rng.standard_normal((5, 4, 3)).astype(np.float32) for _ in range(2))
    ends = np.array([[1, 1, 4, 0, 0], [0, 3, 2, 4, 4]], np.int32)
    copied = decoder.copy_rows(tuple(np.copy(x) for x in cache), *ends, np.int32(3))
    for layer, before in zip(copied, cache, strict=True):
        np.testing.assert_array_equal(layer, before[[1, 1, 4, 1, 4]])
