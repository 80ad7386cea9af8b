"""python -m kanana_jax.generate.serve: what it refuses, and how it ends."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading

import http_client
import pytest
from served import GREEDY

from kanana_jax import generate
from kanana_jax.generate.serve import __main__ as command


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.mark.long
def test_sigterm_lets_an_answer_end_and_exits_with_0(served_folder):
    port = _free_port()
    words = [sys.executable, "-m", "kanana_jax.generate.serve", f"--checkpoint={served_folder}"]
    words += [f"--port={port}", "--length=512", "--batch-size=2", "--tokens-per-step=1"]
    process = subprocess.Popen(words, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    try:
        events = asyncio.run(_stop_while_streaming(port, process))
        assert events[-1] == "data: [DONE]"
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


async def _stop_while_streaming(port, process):
    ask = {"prompt": "abc", "max_tokens": 400, "stream": True, "seed": 2}
    reader, writer = await _send_when_it_listens(port, ask)
    await reader.readuntil(b"data: ")
    process.send_signal(signal.SIGTERM)
    rest = await reader.read()
    writer.close()
    return [line for line in rest.decode().splitlines() if line.startswith("data: ")]


async def _send_when_it_listens(port, ask):
    for _ in range(1500):  # five minutes: other tests compile beside it
        try:
            return await http_client.send(port, "/v1/completions", ask)
        except OSError:
            await asyncio.sleep(0.2)
    raise AssertionError("nobody listens")


def test_a_failed_engine_ends_the_process_with_1(served_folder, monkeypatch, caplog):
    def fail(engine):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(generate.Engine, "step", fail)
    monkeypatch.setattr(generate.Engine, "warm_up", lambda engine: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest's own stay
    port, answers, servers, is_ending = _free_port(), [], [], []
    make_server = command._make_server

    def make_kept_server(arguments):
        server, worker = make_server(arguments)
        servers.append(server)
        return server, worker

    monkeypatch.setattr(command, "_make_server", make_kept_server)

    async def ask():
        reader, writer = await _send_when_it_listens(port, GREEDY)
        answers.append(await reader.read())
        writer.close()
        (server,) = servers
        for _ in range(100):
            await asyncio.sleep(0 if server.should_exit else 0.1)
        is_ending.append(server.should_exit)
        server.should_exit = True

    client = threading.Thread(target=lambda: asyncio.run(ask()))
    client.start()
    with pytest.raises(SystemExit) as stopped:
        command.main([f"--checkpoint={served_folder}", f"--port={port}", "--length=32"])
    client.join()
    assert is_ending == [True]
    assert stopped.value.code == 1
    (answer,) = answers
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"a fault of ours" in answer


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--max-waiting=-1", "--max-waiting must not be negative, got -1"),
        ("--shutdown-seconds=-1", "--shutdown-seconds must not be negative, got -1"),
        ("--batch-size=0", "--batch-size must be positive, got 0"),
        ("--length=-5", "--length must be positive, got -5"),
        ("--tokens-per-step=0", "--tokens-per-step must be positive, got 0"),
        ("--port=65536", "--port=65536 cannot be listened on"),
        ("--port=-1", "--port=-1 cannot be listened on"),
        ("--host=256.0.0.1", "--host=256.0.0.1 --port=8000 cannot be listened on"),
        ("--model-name=a\udcff", "must be printable, got 'a\\udcff'"),
    ],
)
def test_a_bad_flag_is_one_line_before_the_model_is_read(flag, message, capsys, monkeypatch):
    monkeypatch.setattr(generate, "load", None)
    with pytest.raises(SystemExit) as stopped:
        command.main(["--checkpoint=/no/such", flag])
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_a_port_in_use_is_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        with pytest.raises(SystemExit) as stopped:
            command.main(["--checkpoint=/no/such", f"--port={port}"])
    assert stopped.value.code == 2
    assert "cannot be listened on" in capsys.readouterr().err


def test_a_folder_that_is_none_is_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["--checkpoint=/no/such", f"--port={_free_port()}"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("kanana_jax.generate.serve: expected /no/such")
