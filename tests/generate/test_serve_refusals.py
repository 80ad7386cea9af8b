"""What the server refuses, with which status, and that it says why in OpenAI's form."""

import asyncio

import pytest

USER = [{"role": "user", "content": "x"}]
BAD = {
    "no_prompt": ("completions", {}, "prompt must be"),
    "prompt_kind": ("completions", {"prompt": [1, "a"]}, "prompt must be"),
    "ids_outside": ("completions", {"prompt": [258]}, "token ids must lie in [0, 258)"),
    "no_ids": ("completions", {"prompt": [[]]}, "the prompt is empty"),
    "temperature": ("completions", {"prompt": "a", "temperature": 3}, "number in [0, 2], got 3"),
    "temperature_kind": ("completions", {"prompt": "a", "temperature": "1"}, "got '1'"),
    "nan": ("completions", b'{"prompt": "a", "top_p": NaN}', "NaN is no number of JSON"),
    "top_p": ("completions", {"prompt": "a", "top_p": 0}, "number in (0, 1], got 0"),
    "top_k": ("completions", {"prompt": "a", "top_k": -2}, "integer of at least -1"),
    "max_tokens": ("completions", {"prompt": "a", "max_tokens": 0}, "at least 1, got 0"),
    "n": ("completions", {"prompt": "a", "n": 1000}, "at most 128"),
    "stop": ("completions", {"prompt": "a", "stop": [""]}, "stop must be at most"),
    "bool_seed": ("completions", {"prompt": "a", "seed": True}, "seed must be an integer"),
    "logprobs": ("completions", {"prompt": "a", "logprobs": 21}, "at least 0 and at most 20"),
    "stop_ids": ("completions", {"prompt": "a", "stop_token_ids": [258]}, "token ids must lie in"),
    "bias": ("completions", {"prompt": "a", "logit_bias": {"258": 1}}, "token ids must lie in"),
    "suffix": ("completions", {"prompt": "a", "suffix": "b"}, "suffix = 'b' is not supported"),
    "unknown": ("completions", {"prompt": "a", "temprature": 1}, "unknown field temprature"),
    "options": (
        "completions",
        {"prompt": "a", "stream_options": {"x": 1}},
        "stream_options is for streams",
    ),
    "surrogate": ("completions", b'{"prompt": "\\ud800"}', "surrogates not allowed"),
    "surrogate_model": ("completions", b'{"model": "\\udfff"}', "surrogates not allowed"),
    "surrogate_name": ("completions", b'{"\\ud800": 1}', "surrogates not allowed"),
    "latin_1": ("completions", b'{"prompt": "\xe9"}', "the body is no JSON in UTF-8"),
    "no_body": ("completions", b"", "the body is no JSON in UTF-8"),
    "long_name": ("completions", {"prompt": "a", "x" * 5000: 1}, "unknown field xxx"),
    "long_number": ("completions", b'{"n": ' + b"9" * 4000 + b"}", "prompt must be"),
    "no_json": ("completions", b"{", "the body is no JSON"),
    "deep": ("completions", b"[" * 100_000, "the body is no JSON"),
    "a_list": ("completions", [], "expected a JSON object, got list"),
    "too_long": ("completions", {"prompt": "a" * 64}, "holds 64 tokens of a request"),
    "huge": ("completions", {"prompt": "a" * 500_000}, "the prompt has 500001"),
    "too_many": ("completions", {"prompt": "a", "max_tokens": 63}, "63 were asked for"),
    "no_messages": ("chat/completions", {}, "at least one message"),
    "role": ("chat/completions", {"messages": [{"role": "x"}]}, "messages[0] must be"),
    "content": ("chat/completions", {"messages": [{"role": "user"}]}, "must be text, got nothing"),
    "image": (
        "chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages[0].content[0] must be a part of type text or input_audio",
    ),
    "tools": (
        "chat/completions",
        {"messages": USER, "tools": [{}]},
        "tool 1: expected",
    ),
    "long_chat": (
        "chat/completions",
        {"messages": [{"role": "user", "content": "x" * 80}]},
        "shorten one of them",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_refused_in_openais_form(served, name):
    endpoint, body, message = BAD[name]
    answer = served.fetch(f"/v1/{endpoint}", body, method="POST")
    assert answer.status == 400
    error = answer.body["error"]
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"
    assert error.keys() == {"message", "type", "param", "code"}
    assert len(error["message"]) <= 1000
    assert served.worker.num_open == 0


@pytest.mark.parametrize(
    ("path", "body", "method", "status"),
    [
        ("/v1/models/other", None, "GET", 404),
        ("/v1/completions", {"model": "other", "prompt": "a"}, "POST", 404),
        ("/v1/nothing", None, "GET", 404),
        ("/v1/completions", None, "GET", 405),
        ("/v1/completions", b" " * (9 << 20), "POST", 413),
    ],
)
def test_other_refusals_have_their_status(served, path, body, method, status):
    answer = served.fetch(path, body, method=method)
    assert answer.status == status
    assert answer.body["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("size", [0, 5, 40])
def test_a_body_that_ends_early_is_no_fault_of_ours(served, size, caplog):
    async def hang_up():
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n"
        writer.write(head + b"x" * size)
        writer.write_eof()
        await reader.read()
        writer.close()

    asyncio.run(hang_up())
    assert served.fetch("/health").status == 200
    assert [one for one in caplog.records if one.levelname == "ERROR"] == []
