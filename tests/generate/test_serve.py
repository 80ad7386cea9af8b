"""The server over real sockets: OpenAI's forms, refusals, cancelled clients, and no leak."""

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import http_client
import jax
import numpy as np
import pytest
import small_decoder
from served import LENGTH, NUM_ROWS, Served

from kanana_jax import generate
from kanana_jax.checkpoint import native

TEMPLATE = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
GREEDY = {"prompt": "abc", "temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of bytes with a chat template."""
    path = tmp_path_factory.mktemp("models") / "small"
    weights = small_decoder.random_weights(small_decoder.CFG)
    stored = jax.tree.map(lambda x: native.streamed(np.asarray(x)), weights)
    with native.new_directory(path) as temporary:
        native.write(temporary, native.Description(small_decoder.CFG, {}), stored)
        (temporary / "chat_template.jinja").write_text(TEMPLATE)
    return path


@pytest.fixture(scope="module")
def loaded(folder):
    return generate.load(folder)


@pytest.fixture(scope="module")
def served(loaded):
    with Served(loaded) as server:
        yield server


def _alone(loaded, prompt, max_tokens, sampling):
    engine = loaded.engine(num_rows=NUM_ROWS, length=LENGTH)
    request = generate.Request(prompt=prompt, max_tokens=max_tokens, sampling=sampling)
    return list(engine.run([request]))


def _text(answer, place=0):
    return answer.body["choices"][place]["text"]


def test_the_model_is_listed_and_found_by_its_name(served):
    listed = served.fetch("/v1/models").body
    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert (model["id"], model["object"]) == ("small", "model")
    assert served.fetch("/v1/models/small").body == model
    assert served.fetch("/health").body["status"] == "ok"


def test_a_completion_is_what_the_engine_gives_alone(served, loaded):
    answer = served.fetch(
        "/v1/completions",
        {"model": "small", "prompt": "abc", "max_tokens": 9, "seed": 5, "temperature": 0.9,
         "top_p": 0.9, "top_k": 50, "min_p": 0.01},
    )  # fmt: skip
    how = generate.Sampling(temperature=0.9, top_p=0.9, top_k=50, min_p=0.01, seed=5)
    pieces = _alone(loaded, loaded.prompt_ids("abc"), 9, how)
    assert answer.status == 200
    assert answer.body["object"] == "text_completion"
    (choice,) = answer.body["choices"]
    assert choice["text"] == "".join(piece.text for piece in pieces)
    assert choice["finish_reason"] == pieces[-1].finish_reason
    num = len(pieces)
    assert answer.body["usage"] == {
        "prompt_tokens": 4,
        "completion_tokens": num,
        "total_tokens": 4 + num,
    }


def test_a_stream_has_the_same_text_and_counts_when_asked(served):
    whole = served.fetch("/v1/completions", GREEDY)
    stream = GREEDY | {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, usage, done = served.fetch("/v1/completions", stream).body
    assert done == "[DONE]"
    assert len(chunks) > 1
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == _text(whole)
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["length"]
    assert (usage["choices"], usage["usage"]) == ([], whole.body["usage"])
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_usage_counts_every_prompt_and_every_choice(served):
    ask = GREEDY | {"prompt": [[97, 98], [99, 100, 101]], "n": 2, "max_tokens": 4}
    whole = served.fetch("/v1/completions", ask).body["usage"]
    stream = ask | {"stream": True, "stream_options": {"include_usage": True}}
    *_, usage, _ = served.fetch("/v1/completions", stream).body
    # As OpenAI's: a prompt counts once, whatever its number of choices.
    assert whole == usage["usage"]
    assert whole == {"prompt_tokens": 5, "completion_tokens": 16, "total_tokens": 21}


def test_a_chat_goes_through_the_template(served):
    ids = list(b"system:S;user:hello;")
    want = served.fetch("/v1/completions", GREEDY | {"prompt": ids})
    chat = {
        "model": "small",
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": [{"type": "text", "text": "hello"}]},
        ],
        "temperature": 0,
        "max_completion_tokens": 12,
    }
    answer = served.fetch("/v1/chat/completions", chat).body
    assert answer["object"] == "chat.completion"
    message = answer["choices"][0]["message"]
    assert (message["role"], message["content"]) == ("assistant", _text(want))
    assert answer["usage"]["prompt_tokens"] == len(ids)
    first, *rest, done = served.fetch("/v1/chat/completions", chat | {"stream": True}).body
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(x["choices"][0]["delta"].get("content", "") for x in rest) == _text(want)
    assert done == "[DONE]"


def test_choices_have_seeds_of_their_own_that_repeat(served):
    ask = {"prompt": ["ab", "cd"], "n": 2, "seed": 7, "max_tokens": 8}
    answer = served.fetch("/v1/completions", ask)
    assert [choice["index"] for choice in answer.body["choices"]] == [0, 1, 2, 3]
    texts = [_text(answer, place) for place in range(4)]
    assert len(set(texts)) == 4
    again = served.fetch("/v1/completions", ask)
    assert [_text(again, place) for place in range(4)] == texts
    alone = served.fetch("/v1/completions", {"prompt": "cd", "seed": 7 + 3, "max_tokens": 8})
    assert _text(alone) == texts[3]
    without = [served.fetch("/v1/completions", {"prompt": "ab", "max_tokens": 8}) for _ in "12"]
    assert _text(without[0]) != _text(without[1])


def test_a_stop_string_ends_the_text_before_it(served):
    text = _text(served.fetch("/v1/completions", GREEDY))
    answer = served.fetch("/v1/completions", GREEDY | {"stop": [text[4:6]]})
    assert _text(answer) == text[: text.index(text[4:6])]
    assert answer.body["choices"][0]["finish_reason"] == "stop"


USER = [{"role": "user", "content": "x"}]
BAD = {
    "no_prompt": ("completions", {}, "prompt must be"),
    "prompt_kind": ("completions", {"prompt": [1, "a"]}, "prompt must be"),
    "ids_outside": ("completions", {"prompt": [258]}, "token ids must lie in [0, 258)"),
    "no_ids": ("completions", {"prompt": [[]]}, "the prompt is empty"),
    "temperature": ("completions", {"prompt": "a", "temperature": 3}, "number in [0, 2], got 3"),
    "temperature_kind": ("completions", {"prompt": "a", "temperature": "1"}, "got '1'"),
    "nan": ("completions", b'{"prompt": "a", "top_p": NaN}', "number in [0, 1], got nan"),
    "top_p": ("completions", {"prompt": "a", "top_p": 0}, "top_p in (0, 1]"),
    "top_k": ("completions", {"prompt": "a", "top_k": -2}, "integer of at least -1"),
    "max_tokens": ("completions", {"prompt": "a", "max_tokens": 0}, "at least 1, got 0"),
    "n": ("completions", {"prompt": "a", "n": 1000}, "at most 128"),
    "stop": ("completions", {"prompt": "a", "stop": [""]}, "stop must be at most"),
    "bool_seed": ("completions", {"prompt": "a", "seed": True}, "seed must be an integer"),
    "logprobs": ("completions", {"prompt": "a", "logprobs": 5}, "logprobs is not supported"),
    "unknown": ("completions", {"prompt": "a", "temprature": 1}, "unknown field temprature"),
    "options": ("completions", {"prompt": "a", "stream_options": {"x": 1}}, "unknown fields x"),
    "surrogate": ("completions", b'{"prompt": "\\ud800"}', "surrogates not allowed"),
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
        "parts of type text only",
    ),
    "tools": ("chat/completions", {"messages": USER, "tools": [{}]}, "tools is not supported"),
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


def test_a_full_queue_says_so_and_a_free_place_is_taken(loaded):
    with Served(loaded, num_rows=1, max_waiting=1) as server:
        asyncio.run(_fill_queue(server))
        server.wait_until_idle()
        assert server.fetch("/v1/completions", GREEDY).status == 200


async def _fill_queue(server):
    long = {"prompt": "a", "max_tokens": 60, "stream": True, "seed": 1}
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            reader, writer = await http_client.send(server.port, "/v1/completions", long)
            stack.callback(writer.close)
            await reader.readline()  # a status: it has a place
        answer = await http_client.fetch(server.port, "/v1/completions", GREEDY)
        if server.worker.num_open == 2:  # else the first has ended meanwhile
            assert answer.status == 429
        assert answer.status in (200, 429)
        several = await http_client.fetch(server.port, "/v1/completions", GREEDY | {"n": 3})
        assert several.status == 429
        assert several.body["error"]["code"] == "queue_full"


def test_a_failed_engine_answers_503_from_then_on(loaded, monkeypatch, caplog):
    with Served(loaded) as server:

        def fail():
            raise RuntimeError("out of memory")

        monkeypatch.setattr(server.engine, "step", fail)
        answer = server.fetch("/v1/completions", GREEDY)
        assert answer.status == 503
        assert "out of memory" in answer.body["error"]["message"]
        assert server.fetch("/v1/completions", GREEDY).status == 503
        assert server.fetch("/health").status == 503


async def _hang_up(port, is_streamed, max_tokens=60):
    ask = {"prompt": "abc", "max_tokens": max_tokens, "stream": is_streamed}
    reader, writer = await http_client.send(port, "/v1/completions", ask)
    if is_streamed:
        await reader.readuntil(b"data: ")
    writer.close()


@pytest.mark.slow
def test_clients_that_hang_up_free_their_rows(loaded, monkeypatch):
    endless = loaded._replace(eos_ids=())
    with Served(endless, num_rows=2, length=4096) as server:
        step, num_steps = server.engine.step, 0

        def counted():
            nonlocal num_steps
            num_steps += 1
            return step()

        monkeypatch.setattr(server.engine, "step", counted)

        async def all_hang_up():
            await asyncio.gather(*[_hang_up(server.port, i % 2 == 0, 4000) for i in range(6)])

        asyncio.run(all_hang_up())
        server.wait_until_idle()
        assert num_steps < 500  # their answers would have taken 3000 of 4 tokens
        assert server.fetch("/v1/completions", GREEDY).status == 200


async def _crowd(port, num_requests):
    """Short requests, one in ten hangs up, one in ten is too long."""

    async def one(place):
        if place % 10 == 0:
            await _hang_up(port, is_streamed=place % 20 == 0)
            return None
        if place % 10 == 1:
            body = {"prompt": "a" * 1000, "max_tokens": 4}
        else:
            body = {"prompt": "ab", "max_tokens": 4, "seed": place, "stream": place % 2 == 0}
        return await http_client.fetch(port, "/v1/completions", body)

    return await asyncio.gather(*map(one, range(num_requests)))


def _resources():
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    mib = pages * resource.getpagesize() / 2**20
    return threading.active_count(), len(os.listdir("/proc/self/fd")), mib


@pytest.mark.slow
def test_a_thousand_requests_at_once_leave_nothing_behind(served):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    try:
        seen = []
        for _ in range(3):
            answers = asyncio.run(_crowd(served.port, 1000))
            served.wait_until_idle()
            statuses = [answer.status for answer in answers if answer]
            assert (statuses.count(200), statuses.count(400)) == (800, 100)
            assert served.worker._places == {}
            seen.append(_resources())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    (threads, files, _), _, (threads_after, files_after, _) = seen
    assert threads_after == threads
    assert files_after <= files + 2
    # The first round fills pools; a leak would go on.
    assert seen[2][2] - seen[1][2] < 16, seen


@pytest.mark.slow
def test_sigterm_lets_an_answer_end_and_exits_with_0(folder):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "kanana_jax.generate.serve", f"--checkpoint={folder}"]
    command += [f"--port={port}", "--length=512", "--batch-size=2", "--tokens-per-step=1"]
    process = subprocess.Popen(command, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    try:
        events = asyncio.run(_stop_while_streaming(port, process))
        assert events[-1] == "data: [DONE]"
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


async def _stop_while_streaming(port, process):
    ask = {"prompt": "abc", "max_tokens": 400, "stream": True, "seed": 2}
    for _ in range(600):
        assert process.poll() is None
        try:
            reader, writer = await http_client.send(port, "/v1/completions", ask)
            break
        except OSError:
            await asyncio.sleep(0.2)
    await reader.readuntil(b"data: ")
    process.send_signal(signal.SIGTERM)
    rest = await reader.read()
    writer.close()
    return [line for line in rest.decode().splitlines() if line.startswith("data: ")]


def test_a_folder_that_is_none_is_one_line(capsys):
    from kanana_jax.generate.serve import __main__ as command

    with pytest.raises(SystemExit) as stopped:
        command.main(["--checkpoint=/no/such"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("kanana_jax: expected /no/such")
