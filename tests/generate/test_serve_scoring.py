"""Logprobs and echo of completions: what evaluation harnesses ask for, as the scorer has it."""

import json
import math

import numpy as np
import pytest
from scripted import with_template
from served import Served, text_of

from kanana_jax.data import chat
from kanana_jax.evaluate import scoring

pytestmark = pytest.mark.slow

PATH = "/v1/completions"
CONTEXT, CONTINUATION = [256, *b"abc"], [*b"de", 0xED, 0x95, 0x9C]


@pytest.fixture(scope="module")
def scorer(loaded):
    return scoring.Scorer(loaded, num_rows=1, length=64)


def _logprobs(server, **asked):
    answer = server.fetch(PATH, asked)
    assert answer.status == 200, answer.body
    return answer.body["choices"][0]["logprobs"]


@pytest.mark.parametrize("max_tokens", [1, 0])
@pytest.mark.long
def test_an_echoed_prompt_has_the_scorers_log_probabilities(served, scorer, max_tokens):
    ids = CONTEXT + CONTINUATION
    asked = {"prompt": [ids], "echo": True, "logprobs": 1, "max_tokens": max_tokens}
    answer = served.fetch(PATH, asked | {"temperature": 0}).body
    found = answer["choices"][0]["logprobs"]
    assert {len(found[name]) for name in found} == {len(ids) + max_tokens}
    assert (found["token_logprobs"][0], found["top_logprobs"][0]) == (None, None)
    ((_, want),) = scorer.score([scoring.Pair(CONTEXT, CONTINUATION)])
    of_continuation = slice(len(CONTEXT), len(ids))
    got = sum(found["token_logprobs"][of_continuation])
    np.testing.assert_allclose(got, want.loglikelihood, rtol=1e-6)
    best = [max(one.values()) for one in found["top_logprobs"][of_continuation]]
    assert (best == found["token_logprobs"][of_continuation]) == want.is_greedy
    assert answer["usage"]["completion_tokens"] == max_tokens
    assert answer["choices"][0]["text"].startswith("abcde\ud55c")
    assert found["tokens"][:4] == ["<|bos|>", "a", "b", "c"]
    assert found["tokens"][6:9] == ["bytes:\\xed", "bytes:\\x95", "bytes:\\x9c"]
    # In characters: the beginning of one counts when it is whole.
    assert found["text_offset"][:10] == [0, 0, 1, 2, 3, 4, 5, 5, 5, 6][: len(ids) + max_tokens]


@pytest.mark.long
def test_greedy_tokens_are_the_most_likely_ones(served):
    asked = {"prompt": "abc", "logprobs": 3, "max_tokens": 8, "temperature": 0}
    found = _logprobs(served, **asked)
    for token, logprob, top in zip(
        found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True
    ):
        assert max(top, key=top.get) == token and top[token] == logprob
        assert len(top) == 3 and all(value <= 0 for value in top.values())
    assert _logprobs(served, **asked | {"logprobs": 0})["top_logprobs"] == [
        {token: logprob}
        for token, logprob in zip(found["tokens"], found["token_logprobs"], strict=True)
    ]


def test_what_is_drawn_does_not_depend_on_logprobs(served):
    asked = {"prompt": "abc", "max_tokens": 12, "seed": 4}
    plain = served.fetch(PATH, asked)
    with_logprobs = served.fetch(PATH, asked | {"logprobs": 5, "echo": True})
    assert text_of(with_logprobs) == "abc" + text_of(plain)
    assert plain.body["choices"][0]["logprobs"] is None


def test_a_streams_logprobs_and_echo_are_those_of_the_whole(served):
    asked = {"prompt": ["abc", [100, 101]], "max_tokens": 9, "seed": 4, "n": 2}
    asked |= {"logprobs": 2, "echo": True}
    whole = served.fetch(PATH, asked).body["choices"]
    *chunks, done = served.fetch(PATH, asked | {"stream": True}).body
    assert done == "[DONE]" and len(whole) == 4
    for place, want in enumerate(whole):
        own = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == place]
        assert "".join(one["text"] for one in own) == want["text"]
        for name, values in want["logprobs"].items():
            assert [x for one in own for x in one["logprobs"][name]] == values


def test_log_probabilities_of_nearly_nothing_are_numbers_of_json(served):
    asked = {"prompt": "abc", "max_tokens": 2, "logprobs": 20, "logit_bias": {"65": 100}}
    found = _logprobs(served, **asked)
    assert found["tokens"] == ["A", "A"]
    assert all(map(math.isfinite, found["token_logprobs"]))
    json.dumps(found, allow_nan=False)


def test_options_of_drawing_reach_the_engine(served):
    def text(**more):
        asked = {"prompt": "abc", "max_tokens": 16, "temperature": 0} | more
        return text_of(served.fetch(PATH, asked))

    plain = text()
    assert text(logit_bias={"66": 100}) == "B" * 16
    assert text(logit_bias={"66": 100}, frequency_penalty=2.0, presence_penalty=2) != plain
    assert text(repetition_penalty=3.0) != plain
    assert text(presence_penalty=2.0) != plain or text(frequency_penalty=2.0) != plain
    cut = served.fetch(
        PATH, {"prompt": "abc", "max_tokens": 9, "logit_bias": {"66": 100}, "stop_token_ids": [66]}
    ).body["choices"][0]
    assert (cut["text"], cut["finish_reason"]) == ("", "stop")
    late = {"logit_bias": {"257": 100}, "max_tokens": 9, "prompt": "abc"}
    assert served.fetch(PATH, late).body["usage"]["completion_tokens"] == 1
    held = served.fetch(PATH, late | {"min_tokens": 5}).body
    assert held["usage"]["completion_tokens"] == 6
    held = served.fetch(PATH, late | {"ignore_eos": True, "skip_special_tokens": False}).body
    assert held["choices"][0]["text"] == "<|eos|>" * 9


def test_a_prompt_may_fill_the_server_where_nothing_is_drawn(served):
    asked = {"prompt": [[5] * 63], "echo": True, "logprobs": 0, "max_tokens": 0}
    assert len(_logprobs(served, **asked)["tokens"]) == 63
    assert served.fetch(PATH, asked | {"prompt": [[5] * 64]}).status == 400


CHOICE = {
    "type": "object",
    "properties": {"a": {"enum": [1, 2]}},
    "required": ["a"],
    "additionalProperties": False,
}


@pytest.mark.long
def test_a_random_model_does_what_it_must(loaded):
    """A model that knows nothing keeps to constraints of form and of choice."""
    asked = {"messages": [{"role": "user", "content": "x"}]}
    # No reasoning, which a random model never ends.
    asked |= {"logit_bias": {"126": -100}, "parallel_tool_calls": False}
    asked["tools"] = [{"type": "function", "function": {"name": "f", "parameters": CHOICE}}]
    with Served(with_template(loaded, chat.PLAIN.template)) as server:

        def message(**more):
            answer = server.fetch("/v1/chat/completions", asked | more)
            assert answer.status == 200, answer.body
            return answer.body["choices"][0]

        for seed in range(3):
            choice = message(tool_choice="required", seed=seed)
            (call,) = choice["message"]["tool_calls"]
            assert (choice["finish_reason"], call["function"]["name"]) == ("tool_calls", "f")
            assert json.loads(call["function"]["arguments"])["a"] in (1, 2)
        schema = {"type": "array", "items": {"type": "null"}, "minItems": 2, "maxItems": 2}
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        # Little whitespace, so that the answer fits in what the server holds.
        spaces = {str(byte): -100 for byte in b"\t\n\r "}
        content = message(
            tool_choice="none", response_format=wanted, logit_bias={"126": -100} | spaces
        )["message"]["content"]
        assert json.loads(content) == [None, None]
        alone = {"prompt": "x", "response_format": wanted, "max_tokens": 50, "logit_bias": spaces}
        assert json.loads(text_of(server.fetch(PATH, alone))) == [None, None]
