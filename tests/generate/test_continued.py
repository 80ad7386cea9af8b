"""An answer that was cut off goes on as if it had not been."""

import dataclasses

import numpy as np
import pytest
import small_engine

from kanana_jax.generate import Request, RequestError, Sampling, answers


@pytest.fixture(scope="module")
def whole(cfg, weights):
    """Requests and their answers without a cut."""
    requests = small_engine.mixed(cfg)
    return requests, answers(small_engine.make(cfg, weights), requests)


def _rest(answer, cut):
    """The part of an answer that is handed out when its first `cut` tokens are known."""
    return answer._replace(
        ids=answer.ids[cut:],
        logps=answer.logps[cut:],
        versions=answer.versions[cut:],
    )


@pytest.mark.parametrize("cut", range(12))
def test_from_every_cut_the_rest_is_the_same_bits(cfg, weights, whole, cut):
    pairs = [pair for pair in zip(*whole, strict=True) if len(pair[1].ids) > cut]
    requests = [dataclasses.replace(one, drawn=answer.ids[:cut]) for one, answer in pairs]
    got = answers(small_engine.make(cfg, weights), requests)
    want = [_rest(answer, cut) for _, answer in pairs]
    small_engine.assert_same(
        [one._replace(text="") for one in got], [one._replace(text="") for one in want]
    )


def test_requests_cut_at_different_places_run_side_by_side(cfg, weights, whole):
    requests, uncut = whole
    cuts = [4, 0, 7, 1, 11, 0, 2]
    begun = [
        dataclasses.replace(one, drawn=list(answer.ids[:cut]))
        for one, answer, cut in zip(requests, uncut, cuts, strict=True)
    ]
    got = answers(small_engine.make(cfg, weights), begun)
    want = [_rest(*each) for each in zip(uncut, cuts, strict=True)]
    small_engine.assert_same(
        [one._replace(text="") for one in got], [one._replace(text="") for one in want]
    )


@pytest.mark.parametrize("count", [1, 4, 6])
def test_tokens_that_these_weights_would_not_have_drawn_are_read_all_the_same(cfg, weights, count):
    prompt, drawn = [3, 1, 4, 1, 5], [9, 2, 6, 5, 3, 5][:count]
    how = Sampling(temperature=0.0)
    begun = Request(prompt=prompt, max_tokens=count + 5, sampling=how, drawn=drawn)
    longer = Request(prompt=prompt + drawn, max_tokens=5, sampling=how)
    fresh = Request(prompt=prompt, max_tokens=count, sampling=how)
    got, want, own = answers(small_engine.make(cfg, weights), [begun, longer, fresh])
    assert list(own.ids) != drawn
    assert (got.ids, got.text) == (want.ids, want.text)
    np.testing.assert_array_equal(got.routes, want.routes)


def _pieces(engine, request):
    return [(one.token, one.text, one.finish_reason) for one in engine.run([request])]


@pytest.mark.parametrize("cut", range(9))
def test_the_text_goes_on_where_it_was_cut_even_within_a_character(cfg, weights, cut):
    engine = small_engine.make(cfg, weights)
    request = small_engine.mixed(cfg)[0]
    # Every token is a third of the same character, and a stop string is always half there.
    spelt = bytes([0xEA, 0xB0, 0x80])
    engine._decode = lambda ids: bytes(spelt[i % 3] for i in range(len(ids))).decode(
        errors="replace"
    )
    waiting = dataclasses.replace(request, stop=("\uac00\uac00\uac00!",))
    want = _pieces(engine, waiting)
    got = _pieces(engine, dataclasses.replace(waiting, drawn=[one for one, *_ in want[:cut]]))
    assert got == want[cut:]
    assert "".join(text for _, text, _ in want)


def test_a_stop_string_that_began_before_the_cut_ends_the_answer(cfg, weights, whole):
    requests, uncut = whole
    text = uncut[1].text
    shown = next(i for i in range(2, len(text)) if text[i - 2 : i + 1] not in text[:i])
    stopping = dataclasses.replace(requests[1], stop=(text[shown - 2 : shown + 1],))
    want = _pieces(small_engine.make(cfg, weights), stopping)
    assert want[-1][2] == "stop"
    for cut in range(len(want)):
        begun = dataclasses.replace(stopping, drawn=[one for one, *_ in want[:cut]])
        assert _pieces(small_engine.make(cfg, weights), begun) == want[cut:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drawn": [5, 6, 7], "max_tokens": 3}, "got 3 tokens of one that has ended"),
        ({"drawn": [5, 9, 7]}, "got 3 tokens of one that has ended"),
        ({"drawn": list(b"an END of"), "stop": ("END",)}, "got 9 tokens of one that has ended"),
        ({"drawn": [258]}, "token ids must lie in"),
        ({"drawn": [0.5]}, "token ids must lie in"),
    ],
)
def test_what_is_no_beginning_is_refused(cfg, weights, changes, message):
    engine = small_engine.make(cfg, weights, eos_ids=[9])
    request = dataclasses.replace(Request(prompt=[1, 2], max_tokens=20), **changes)
    for ask in (engine.check, engine.submit):
        with pytest.raises(RequestError, match=message):
            ask(request)
    assert engine.is_idle
