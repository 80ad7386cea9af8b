"""Continuous batching gives every request what it would get alone; text streams stop in time."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import small_decoder
import small_engine

from kanana_jax import model
from kanana_jax.generate import Engine, Request, RequestError, Sampling
from kanana_jax.generate.text import TextStream
from kanana_jax.model import presets

DECODE = small_engine.DECODE


def _requests(cfg):
    rng = np.random.default_rng(2)
    return [
        Request(
            prompt=rng.integers(0, cfg.vocab_size, length).tolist(),
            max_tokens=max_tokens,
            sampling=Sampling(temperature=temperature, seed=seed),
        )
        for seed, (length, max_tokens, temperature) in enumerate(
            [(3, 9, 1.0), (11, 4, 0.0), (1, 12, 1.0), (8, 1, 1.0), (20, 12, 0.7)]
        )
    ]


def _tokens(engine, requests):
    tokens = [[] for _ in requests]
    for piece in engine.run(requests):
        tokens[piece.request].append(piece.token)
    return tokens


@pytest.mark.long
def test_a_request_gets_the_same_tokens_alone_and_in_a_queue(cfg, weights):
    requests = _requests(cfg)
    alone_engine = small_engine.make(cfg, weights)
    alone = [_tokens(alone_engine, [request])[0] for request in requests]
    assert _tokens(small_engine.make(cfg, weights), requests) == alone
    assert [len(tokens) for tokens in alone] == [request.max_tokens for request in requests]


@pytest.mark.long
def test_tokens_do_not_depend_on_how_often_the_host_looks(cfg, weights):
    requests = _requests(cfg)
    want = _tokens(small_engine.make(cfg, weights, tokens_per_step=1), requests)
    assert _tokens(small_engine.make(cfg, weights), requests) == want


def test_a_cancelled_request_frees_its_row_and_changes_no_other(cfg, weights):
    requests = _requests(cfg)
    want = _tokens(small_engine.make(cfg, weights), requests[:1])[0]
    engine = small_engine.make(cfg, weights)
    numbers = [engine.submit(requests[place]) for place in (0, 2, 4, 1)]
    got = [piece.token for piece in engine.step() if piece.request == numbers[0]]
    assert (engine.num_running, engine.num_waiting) == (3, 1)
    for number in (*numbers[1:], 1234):
        engine.cancel(number)
    assert (engine.num_running, engine.num_waiting) == (1, 0)
    while not engine.is_idle:
        pieces = engine.step()
        assert {piece.request for piece in pieces} == {numbers[0]}
        got += [piece.token for piece in pieces]
    assert got == want


def test_greedy_tokens_are_those_of_the_full_forward(cfg, stacks, weights):
    request = _requests(cfg)[1]
    got = _tokens(small_engine.make(cfg, weights), [request])[0]
    tokens = np.zeros((1, 16), np.int32)  # what follows a position cannot change its logits
    tokens[0, :15] = [*request.prompt, *got]
    apply = jax.jit(functools.partial(model.apply, cfg, execution=presets.LAPTOP))
    logits, _ = apply(stacks, model.Inputs.of_tokens(tokens))
    assert np.argmax(logits[0, 10:14], axis=-1).tolist() == got


def test_generation_ends_at_eos_and_shows_none_of_it(cfg, weights):
    request = _requests(cfg)[0]
    plain = _tokens(small_engine.make(cfg, weights), [request])[0]
    eos = plain[3]
    pieces = list(small_engine.make(cfg, weights, eos_ids=[eos]).run([request]))
    cut = plain[: plain.index(eos) + 1]
    assert [piece.token for piece in pieces] == cut
    assert [piece.finish_reason for piece in pieces] == [None] * (len(cut) - 1) + ["stop"]
    assert "".join(piece.text for piece in pieces) == DECODE(cut[:-1])


def test_an_answer_cut_by_its_length_shows_what_waited_for_a_stop_string(cfg, weights):
    request = _requests(cfg)[0]
    text = DECODE(_tokens(small_engine.make(cfg, weights), [request])[0])
    waiting = dataclasses.replace(request, stop=(text[-1] + " and more",))
    pieces = list(small_engine.make(cfg, weights).run([waiting]))
    assert pieces[-1].finish_reason == "length"
    assert "".join(piece.text for piece in pieces) == text


@pytest.mark.parametrize(
    ("length", "max_tokens", "message"),
    [(0, 4, "got 0 and 4"), (46, 3, "got 46 and 3"), (3, 0, "got 3 and 0")],
)
def test_a_request_that_cannot_fit_is_refused(cfg, weights, length, max_tokens, message):
    with pytest.raises(RequestError, match=message):
        small_engine.make(cfg, weights).submit(Request(prompt=[1] * length, max_tokens=max_tokens))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(prompt=[258], max_tokens=1), "token ids must lie in"),
        (Request(prompt=[-1], max_tokens=1), "token ids must lie in"),
        (Request(prompt=[2**40], max_tokens=1), "token ids must lie in"),
        (Request(prompt=[10**30], max_tokens=1), "token ids must lie in"),
        (Request(prompt=[1.5], max_tokens=1), "token ids must lie in"),
    ],
)
def test_what_is_no_token_is_refused(cfg, weights, request_, message):
    engine = small_engine.make(cfg, weights)
    with pytest.raises(RequestError, match=message):
        engine.submit(request_)
    assert engine.is_idle


@pytest.mark.long
def test_after_the_warm_up_no_request_compiles_anything(cfg, caplog):
    # Sizes that no other test has: its functions would be compiled already.
    cfg = dataclasses.replace(cfg, num_layers=1)
    sizes = {"num_rows": 3, "length": 150, "chunk": 64, "tokens_per_step": 3}
    weights = small_decoder.prepared(cfg)
    engine = Engine(cfg, presets.LAPTOP, weights, decode=DECODE, eos_ids=range(258), **sizes)
    with jax.log_compiles():
        engine.warm_up()
        assert len(_compiled(caplog, "draw")) == len(_compiled(caplog, "prefill")) == 4
        caplog.clear()
        requests = [
            Request(prompt=[5] * length, max_tokens=9, sampling=how)
            for length in (1, 31, 33, 65, 100, 141)
            for how in (Sampling(), Sampling(temperature=0.0), Sampling(top_p=0.9, top_k=4))
        ]
        requests += [
            dataclasses.replace(one, num_top_logprobs=2, has_prompt_logprobs=True)
            for one in requests[::3]
        ]
        engine._eos_ids = frozenset()
        assert sum(map(len, _tokens(engine, requests))) == 9 * len(requests)
        assert _compiled(caplog) == []


def _compiled(caplog, name=""):
    texts = [record.getMessage() for record in caplog.records]
    return [text for text in texts if text.startswith("Compiling") and f"{name})" in text]


def _stream(text, stop=()):
    stream = TextStream(DECODE, stop)
    shown = []
    for byte in text.encode():
        shown.append(stream.push(byte))
        if stream.is_stopped:
            break
    return [*shown, stream.finish()]


def test_of_two_stop_strings_in_one_token_the_first_in_the_text_ends_it():
    for stop in (["b", "d"], ["d", "b"]):
        stream = TextStream(lambda tokens: "abcde" * len(tokens), stop)
        assert stream.push(0) == "a"
        assert stream.is_stopped


def test_no_half_character_is_shown():
    pieces = _stream("a\uac00b")
    assert pieces == ["a", "", "", "\uac00", "b", ""]


def test_a_stop_string_is_never_shown_not_even_its_beginning():
    assert "".join(_stream("one two END three", ["END"])) == "one two "
    assert _stream("xEN", ["END"])[1:3] == ["", ""]
    assert "".join(_stream("xEN", ["END"])) == "xEN"
    assert "".join(_stream("aaab", ["aab"])) == "a"
    assert "".join(_stream("one##two", ["two", "##"])) == "one"


def test_long_text_is_whole_and_decoded_in_windows():
    seen = []

    def decode(ids):
        seen.append(len(ids))
        return DECODE(ids)

    text = "ab\uac00 c" * 100
    stream = TextStream(decode)
    shown = [stream.push(byte) for byte in text.encode()]
    assert "".join(shown) + stream.finish() == text
    assert max(seen) < 10


def test_bytes_that_are_no_text_do_not_wait_for_ever():
    seen = []

    def decode(ids):
        seen.append(len(ids))
        return DECODE(ids)

    stream = TextStream(decode)
    shown = [stream.push(0xB0) for _ in range(200)]
    assert "".join(shown) + stream.finish() == "\ufffd" * 200
    assert len("".join(shown)) > 190
    assert max(seen) < 70
