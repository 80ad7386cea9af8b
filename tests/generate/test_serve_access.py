"""Keys, origins, sizes, tokens and metrics: what stands around the two endpoints."""

import asyncio

import http_client
import pytest
from scripted import Scripted, say, with_template
from served import Served

from kanana_jax.data import chat

GREEDY = {"prompt": "abc", "max_tokens": 3}


async def _raw(port, request):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


def _ask(port, method, path, *headers, body=b""):
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *headers]
    lines.append(f"Content-Length: {len(body)}")
    answer = asyncio.run(_raw(port, "\r\n".join([*lines, "", ""]).encode() + body))
    head, _, content = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode().lower(), content


@pytest.fixture(scope="module")
def guarded(loaded):
    with Served(
        loaded,
        engine=Scripted(lambda _: "Hello."),
        api_key="secret-1",
        origins=("https://page.example",),
        max_body_bytes=1000,
    ) as server:
        yield server


def test_a_key_is_asked_for_but_by_supervisors(guarded):
    assert _ask(guarded.port, "GET", "/health")[0] == 200
    wrong = ("Bearer secret-2", "secret-1", "Bearer secret-", "Bearer secret-11", "Bearer", "")
    for header in ((), *((f"Authorization: {one}",) for one in wrong)):
        for path in ("/v1/models", "/metrics", "/nowhere", "/v1/completions"):
            status, head, content = _ask(guarded.port, "GET", path, *header)
            assert status == 401 and b"invalid_api_key" in content
            assert "www-authenticate: bearer" in head
    assert _ask(guarded.port, "GET", "/v1/models", "Authorization: Bearer secret-1")[0] == 200


def test_pages_of_an_origin_may_ask_and_others_may_not(guarded):
    asked = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization")
    status, head, _ = _ask(
        guarded.port, "OPTIONS", "/v1/completions", "Origin: https://page.example", *asked
    )
    assert status == 200 and "access-control-allow-origin: https://page.example" in head
    status, head, _ = _ask(
        guarded.port, "OPTIONS", "/v1/completions", "Origin: https://other.example", *asked
    )
    assert status == 400 and "access-control-allow-origin" not in head
    # A browser shows the refusal of the key only with the header.
    status, head, _ = _ask(guarded.port, "GET", "/v1/models", "Origin: https://page.example")
    assert status == 401 and "access-control-allow-origin: https://page.example" in head


def test_without_an_origin_no_page_may_ask(served):
    _, head, _ = _ask(served.port, "GET", "/v1/models", "Origin: https://page.example")
    assert "access-control" not in head


def test_the_size_of_a_body_is_limited(guarded):
    body = b'{"prompt": "' + b"a" * 1000 + b'"}'
    headers = ("Authorization: Bearer secret-1",)
    status, _, content = _ask(guarded.port, "POST", "/v1/completions", *headers, body=body)
    assert status == 413 and b"expected at most 1000 bytes, got 1014" in content


def test_prompts_and_chats_are_tokenized_as_they_are_read(loaded):
    own = with_template(loaded, chat.HERMES.template)
    with Served(own, engine=Scripted(say), length=4096) as server:
        found = server.fetch("/tokenize", {"prompt": "a<|eos|>\uac00", "model": "small"}).body
        assert found == {
            "tokens": [256, 97, 257, 0xEA, 0xB0, 0x80],
            "count": 6,
            "max_model_len": 4096,
        }
        messages = [{"role": "user", "content": "hello"}]
        tools = [{"type": "function", "function": {"name": "now"}}]
        found = server.fetch("/tokenize", {"messages": messages, "tools": tools}).body
        asked = {"messages": messages, "tools": tools, "max_tokens": 1}
        server.fetch("/v1/chat/completions", asked)
        assert found["tokens"] == server.engine.asked[-1].prompt
        bare = server.fetch("/tokenize", {"prompt": "a", "add_special_tokens": False}).body
        assert bare["tokens"] == [97]
        info = server.fetch("/tokenizer_info").body
        assert (info["bos_token"], info["chat_template"]) == ("<|bos|>", chat.HERMES.template)
        back = server.fetch("/detokenize", {"tokens": [256, 97, 0xEA, 0xB0, 0x80]}).body
        assert back == {"prompt": "<|bos|>a\uac00"}
        for path, body in (
            ("/tokenize", {"prompt": ["a", "b"]}),
            ("/tokenize", {"prompt": "a", "add_special_tokens": 0}),
            ("/tokenize", {"messages": []}),
            ("/tokenize", {"messages": messages, "x": 1}),
            ("/detokenize", {"tokens": [258]}),
            ("/detokenize", {"tokens": "a"}),
        ):
            assert server.fetch(path, body).status == 400, body
        assert server.fetch("/tokenize", {"prompt": "a", "model": "other"}).status == 404


def _values(port):
    status, head, content = _ask(port, "GET", "/metrics")
    assert status == 200 and "text/plain; version=0.0.4" in head
    lines = [line for line in content.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_metrics_count_what_was_done(loaded):
    with Served(loaded, engine=Scripted(lambda _: "Hello."), max_waiting=4) as server:
        before = _values(server.port)
        assert before["kanana_jax_requests_running"] == 0
        server.fetch("/v1/completions", GREEDY)
        asyncio.run(http_client.fetch(server.port, "/v1/completions", GREEDY | {"stream": True}))
        server.fetch("/v1/completions", {"prompt": "a", "top_p": 0})
        server.fetch("/v1/%22")
        after = _values(server.port)
    changes = {
        name: after[name] - before.get(name, 0)
        for name in after
        if after[name] != before.get(name, 0) and "bucket" not in name and "sum" not in name
    }
    path = 'path="/v1/completions"'
    assert changes == {
        "kanana_jax_prompt_tokens_total": 8,
        "kanana_jax_generation_tokens_total": 6,
        f'kanana_jax_http_responses_total{{{path},status="200"}}': 2,
        f'kanana_jax_http_responses_total{{{path},status="400"}}': 1,
        'kanana_jax_http_responses_total{path="other",status="404"}': 1,
        'kanana_jax_http_responses_total{path="/metrics",status="200"}': 1,
        "kanana_jax_time_to_first_token_seconds_count": 2,
        "kanana_jax_request_duration_seconds_count": 5,
    }
    buckets = [value for name, value in after.items() if "first_token_seconds_bucket" in name]
    assert buckets == sorted(buckets) and buckets[-1] == 2
