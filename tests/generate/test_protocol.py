"""Every value of a request's fields is taken as it is meant, or refused by name."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_neutral import accepted_values

from kanana_jax.generate import neutral
from kanana_jax.generate.sampling import Sampling
from kanana_jax.generate.serve import fields, protocol
from kanana_jax.generate.serve.fields import ApiError

COMPLETION = {"prompt": "a", "seed": 1}
CHAT = {"messages": [{"role": "user", "content": "x"}], "seed": 1}
USER = {"role": "user", "content": "x"}
CALL = {"type": "function", "id": "x", "function": {"name": "add", "arguments": '{"a": 1}'}}
NEUTRAL = [
    (parse, base, name, value)
    for parse, base, table in (
        (protocol.parse_completion, COMPLETION, neutral.COMPLETION),
        (protocol.parse_chat, CHAT, neutral.CHAT),
    )
    for name in table
    for value in [None, *accepted_values(table, name)]
]
# Values that ask for nothing that the server does.
NEUTRAL += [
    (parse, base, name, value)
    for parse, base in (
        (protocol.parse_completion, COMPLETION),
        (protocol.parse_chat, CHAT),
    )
    for name, value in {
        "repetition_penalty": 1,
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": [],
        "min_tokens": 0,
        "ignore_eos": False,
        "skip_special_tokens": True,
        "stop_token_ids": [],
        "logprobs": False,
        "response_format": {"type": "text"},
    }.items()
]


def _refused(parse, body):
    with pytest.raises(ApiError) as caught:
        parse(body)
    assert caught.value.status == 400
    return caught.value.body["error"]


def test_neutral_fields_change_nothing():
    for parse, base, name, value in NEUTRAL:
        assert parse(base | {name: value}) == parse(base), (name, value)
    assert len(NEUTRAL) > 200


# What benchmark clients, agents and front ends send unasked.
CLIENTS = [
    (
        protocol.parse_completion,
        {"model": "m", "prompt": "a", "repetition_penalty": 1.0, "max_tokens": 5, "logprobs": None,
         "stream": True, "stream_options": {"include_usage": True}, "ignore_eos": False,
         "best_of": 1, "use_beam_search": False, "top_k": -1, "temperature": 0.0},
    ),
    (
        protocol.parse_completion,
        {"model": "m", "prompt": ["a"], "echo": False, "suffix": None, "logprobs": None, "n": 1,
         "best_of": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {},
         "user": "u", "stop": None, "seed": None, "stream_options": None},
    ),
    (
        protocol.parse_chat,
        {"model": "m", "messages": [USER], "frequency_penalty": 0, "logit_bias": None,
         "logprobs": False, "top_logprobs": None, "metadata": {}, "modalities": ["text"],
         "parallel_tool_calls": True, "presence_penalty": 0, "response_format": {"type": "text"},
         "safety_identifier": "s", "prompt_cache_key": "k", "service_tier": "auto", "store": False,
         "tool_choice": "auto", "tools": [], "function_call": "auto", "functions": [],
         "audio": None, "stream": True,
         "stream_options": {"include_usage": True, "include_obfuscation": False}},
    ),
    (
        protocol.parse_chat,
        {"messages": [{"role": "user", "content": "x", "type": "text"}], "min_tokens": 0,
         "skip_special_tokens": True, "stop_token_ids": [], "chat_template_kwargs": {},
         "add_generation_prompt": True, "tool_choice": "none", "parallel_tool_calls": False,
         "max_tokens": 9, "max_completion_tokens": 9, "length_penalty": 1.0, "bad_words": []},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("parse", "body"), CLIENTS)
def test_what_common_clients_send_by_default_is_accepted(parse, body):
    assert parse(body).num_requests == 1


@pytest.mark.parametrize(
    "extra",
    [
        {"best_of": 1},
        {"stream": False},
        {"stream_options": {}},
        {"stream_options": None},
        {"n": 1, "temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0, "stop": []},
    ],
)
def test_defaults_said_aloud_change_nothing(extra):
    plain = protocol.parse_completion(COMPLETION)
    assert protocol.parse_completion(COMPLETION | extra) == plain


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"echo": 1}, "echo"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": 1e-320}, "repetition_penalty"),
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"presence_penalty": -(10**400)}, "presence_penalty"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"9" * 10: 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"1": True}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"stop_token_ids": [2**31]}, "stop_token_ids"),
        ({"stop_token_ids": [1.0]}, "stop_token_ids"),
        ({"min_tokens": 17}, "min_tokens"),
        ({"min_tokens": 2**31, "max_tokens": 2**40}, "min_tokens"),
        ({"ignore_eos": 1}, "ignore_eos"),
        ({"skip_special_tokens": "no"}, "skip_special_tokens"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"n": 2, "best_of": 1}, "best_of"),
        ({"best_of": True}, "best_of"),
        ({"presence_penalty": False}, "presence_penalty"),
        ({"n": True}, "n"),
        ({"n": 2.0}, "n"),
        ({"max_tokens": 10.5}, "max_tokens"),
        ({"max_tokens": -(10**30)}, "max_tokens"),
        ({"temperature": 10**400}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": -1e-9}, "temperature"),
        ({"top_p": -0.0}, "top_p"),
        ({"top_k": 0.5}, "top_k"),
        ({"min_p": "0"}, "min_p"),
        ({"seed": "1"}, "seed"),
        ({"stop": [None]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": {"x": 1}}, "stop"),
        ({"stream": 1}, "stream"),
        ({"stream": "true"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": []}, "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
        (
            {"stream": True, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
        ),
        ({"model": 5}, "model"),
        ({"user": 5}, "user"),
        ({"metadata": "x"}, "metadata"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [[1.0]]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_would_do_nothing_or_has_no_meaning_is_refused_by_name(extra, param):
    assert _refused(protocol.parse_completion, COMPLETION | extra)["param"] == param


def test_most_likely_tokens_need_logprobs():
    for extra in ({}, {"logprobs": False}):
        asked = CHAT | {"top_logprobs": 2} | extra
        assert _refused(protocol.parse_chat, asked)["param"] == "top_logprobs"


def test_options_of_streams_are_taken():
    ask = {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}}
    assert protocol.parse_completion(COMPLETION | ask).has_usage
    plain = {"stream": True, "stream_options": {"include_usage": None}}
    assert not protocol.parse_completion(COMPLETION | plain).has_usage


@pytest.mark.parametrize(
    ("extra", "want"),
    [
        ({"max_tokens": 9}, 9),
        ({"max_completion_tokens": 2}, 2),
        ({"max_completion_tokens": 2, "max_tokens": 9}, 2),
        ({"max_tokens": 2, "max_completion_tokens": 9}, 9),
        ({"max_completion_tokens": None, "max_tokens": 9}, 9),
        ({}, None),
    ],
)
def test_the_new_name_of_the_limit_counts(extra, want):
    assert protocol.parse_chat(CHAT | extra).max_tokens == want


def test_seeds_of_any_size_are_taken_and_minus_one_means_any():
    for seed in (0, 2**31 - 1, 2**63, -2, -(10**30)):
        asks = [protocol.parse_completion(COMPLETION | {"seed": seed}) for _ in "ab"]
        assert asks[0] == asks[1]
    seeds = {
        protocol.parse_completion(COMPLETION | {"seed": seed}).options.sampling.seed
        for seed in (-1, -1, None, None)
    }
    assert len(seeds) > 2


@pytest.mark.parametrize(
    ("message", "want"),
    [
        ({"content": "y", "refusal": None, "annotations": []}, {"content": "y"}),
        (
            dict.fromkeys(["refusal", "annotations", "audio", "function_call", "tool_calls"])
            | {"content": "y", "tool_calls": []},
            {"content": "y"},
        ),
        ({"content": "y", "type": "text"}, {"content": "y"}),
        ({"content": None}, {"content": ""}),
        ({"content": [{"type": "text", "text": "y", "cache_control": {}}]}, {"content": "y"}),
        (
            {"content": "y", "reasoning_content": "z", "reasoning": ""},
            {"content": "y", "reasoning_content": "z"},
        ),
        ({"content": "y", "name": "n"}, {"content": "y", "name": "n"}),
    ],
)
def test_an_assistants_message_may_come_back_as_it_was_received(message, want):
    ask = protocol.parse_chat(CHAT | {"messages": [USER, {"role": "assistant"} | message, USER]})
    assert ask.inputs == [[USER, {"role": "assistant"} | want, USER]]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "assistant", "content": "x", "tool_calls": [{}]}, "messages[0].tool_calls"),
        ({"role": "assistant", "content": "x", "refusal": "no"}, "messages[0].refusal"),
        ({"role": "assistant", "content": "x", "reasoning": [1]}, "messages[0].reasoning"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "messages[0].tool_calls"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": "x", "name": {}}, "messages[0].name"),
        ({"role": "user", "content": ["x"]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        (
            {"role": "user", "content": [{"type": "text", "text": "x", "y": 1}]},
            "messages[0].content[0].y",
        ),
        ({"role": ["user"], "content": "x"}, "messages[0]"),
        ("x", "messages[0]"),
    ],
)
def test_a_message_with_more_in_it_is_refused_by_name(message, param):
    assert _refused(protocol.parse_chat, CHAT | {"messages": [message]})["param"] == param


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe{\x00}\x00",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'"\\ud800"',
        b'{"\\udfff": 1}',
        b'{"a": ["\\ud83d"]}',
        b"[" * 100_000,
        b"9" * 5000,
        b"{} {}",
    ],
)
def test_a_body_that_is_no_json_in_unicode_is_refused(body):
    assert "the body is no JSON in UTF-8" in _refused(fields.read_json, body)["message"]


def test_json_is_read_as_it_is():
    text = '{"a": "\\ud83d\\ude00", "b": [1e400, -0.0, 12345678901234567890, "\uac00"]}'
    assert fields.read_json(text.encode()) == json.loads(text)
    assert fields.read_json(text.encode("utf-8-sig")) == json.loads(text)


_FIELDS = {field.name for field in dataclasses.fields(Sampling)} | set(neutral.CHAT)
_NAMES = st.sampled_from(
    sorted(
        _FIELDS
        | {"prompt", "messages", "model", "n", "best_of", "max_tokens", "max_completion_tokens"}
        | {"stream", "stream_options", "stop", "role", "content", "type", "text"}
    )
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES | st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([COMPLETION, CHAT]), st.dictionaries(_NAMES | st.text(), _JSON, max_size=4))
@pytest.mark.long
def test_any_body_is_understood_or_refused_in_short(base, extra):
    for parse in (protocol.parse_completion, protocol.parse_chat):
        try:
            ask = parse(base | extra)
        except ApiError as error:
            assert error.status == 400
            assert len(json.dumps(error.body, allow_nan=False, ensure_ascii=False)) < 2000
        else:
            assert ask.num_requests >= 1


def test_what_a_client_sent_is_shown_in_short():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for extra in ({"temperature": "x" * 10**6}, {"x" * 10**6: 1}, {"logit_bias": deep}):
        error = _refused(protocol.parse_completion, COMPLETION | extra)
        assert len(json.dumps(error)) < 2000


def test_calls_and_results_of_tools_are_taken_with_arguments_as_objects():
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    messages = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "2", "tool_call_id": "x"},
    ]
    ask = protocol.parse_chat(CHAT | {"messages": messages, "tools": [tool]})
    assert ask.tooling.told == (tool,)
    (call,) = ask.inputs[0][1]["tool_calls"]
    assert call == CALL | {"function": {"name": "add", "arguments": {"a": 1}}}
    assert ask.inputs[0][2] == messages[2]
    assert _refused(protocol.parse_chat, CHAT | {"tools": [{}]})["param"] == "tools"
