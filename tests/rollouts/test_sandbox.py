"""What runs in the sandbox reaches nothing outside, ends in time, and its end has a status."""

import json
import os
import signal
import socket
import sys
import time

import pytest

from kanana_jax import config
from kanana_jax.rollouts import sandbox

LIMITS = sandbox.Limits(wall_s=1.0)


@pytest.fixture(scope="module")
def pool():
    with sandbox.Pool(num_workers=2, limits=LIMITS) as opened:
        yield opened


def _run(pool, *texts):
    return pool.run([sandbox.Call(function="builtins:eval", argument=text) for text in texts])


def test_outcomes_come_in_the_order_of_the_calls(pool):
    texts = [f"__import__('time').sleep({0.02 * (i % 3)}) or {i}" for i in range(20)]
    assert _run(pool, *texts) == [sandbox.Outcome(status="ok", value=i) for i in range(20)]


def test_workers_run_at_the_same_time():
    with sandbox.Pool(num_workers=2) as pool:
        start = time.monotonic()
        found = _run(pool, *["__import__('time').sleep(1.0)"] * 2)
        assert time.monotonic() - start < 1.8
    assert [one.status for one in found] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("1 // 0", "error", "ZeroDivisionError"),
        ("undefined", "error", "NameError"),
        ("{1}", "error", "not JSON serializable"),
        ("'a' * 2**21", "error", "a result of more than 1048576 bytes"),
        ("bytearray(2**30)", "error", "MemoryError"),
        ("(lambda f: f(f))(lambda f: f(f))", "error", "RecursionError"),
        ("10**5000", "error", "ValueError"),
        ("exit(0)", "error", "SystemExit"),
        ("__import__('os')._exit(0)", "killed", "ended without a reply"),
        ("__import__('ctypes').string_at(0)", "killed", "ended by signal 11"),
        ("__import__('time').sleep(9)", "timeout", "more than 1.0 s"),
        ("sum(i for i in range(10**12))", "timeout", "more than 1.0 s"),
        ("__import__('os').write(3, b'junk')", "error", "a result of more than"),
        ("__import__('os').write(3, bytes([0, 0, 0, 2]) + b'[]')", "error", "is no reply"),
        ("__import__('os').write(3, bytes([0, 0, 9, 0]) + b'[' * 2304)", "error", "is no reply"),
        ("__import__('os').close(3)", "killed", ""),
    ],
)
def test_every_end_has_its_status(pool, text, status, message):
    (outcome,) = _run(pool, text)
    assert (outcome.status, outcome.value) == (status, None)
    assert message in outcome.message
    assert _run(pool, "40 + 2")[0].value == 42


def test_cpu_time_ends_a_call_before_wall_time_does():
    with sandbox.Pool(num_workers=1, limits=sandbox.Limits(wall_s=30.0, cpu_s=1)) as pool:
        start = time.monotonic()
        assert _run(pool, "sum(i for i in range(10**12))")[0].status == "timeout"
        assert time.monotonic() - start < 10


REFUSED = ("PermissionError", "can't start new thread", "not allowed to raise maximum limit")


@pytest.mark.skipif(sys.platform != "linux", reason="system calls are filtered on Linux")
@pytest.mark.parametrize(
    "act",
    [
        "open('{folder}/kept').read()",
        "open('{folder}/new', 'w')",
        "__import__('os').unlink('{folder}/kept')",
        "__import__('os').rename('{folder}/kept', '{folder}/new')",
        "__import__('os').mkdir('{folder}/new')",
        "__import__('os').truncate('{folder}/kept', 0)",
        "__import__('os').chmod('{folder}/kept', 0)",
        "__import__('os').symlink('/', '{folder}/new')",
        "__import__('os').listdir('{folder}')",
        "__import__('os').fork()",
        "__import__('os').posix_spawn('/bin/sh', ['sh'], {{}})",
        "__import__('os').execv('/bin/sh', ['sh'])",
        "__import__('os').kill({pid}, 9)",
        "__import__('os').killpg(0, 9)",
        "__import__('socket').socket().connect(('127.0.0.1', {port}))",
        "__import__('socket').socketpair()",
        "__import__('_thread').start_new_thread(print, ())",
        "__import__('resource').prlimit({pid}, 0, (1, 1))",
        "__import__('resource').setrlimit(0, (100, 100))",
        "__import__('os').setpriority(0, {pid}, 19)",
    ],
)
def test_the_world_outside_cannot_be_reached(pool, tmp_path, act):
    assert set(pool.guards) == {"memory", "files", "processes", "sockets", "signals"}
    (tmp_path / "kept").write_text("kept")
    with socket.create_server(("127.0.0.1", 0)) as server:
        text = act.format(folder=tmp_path, pid=os.getpid(), port=server.getsockname()[1])
        (outcome,) = _run(pool, text)
    assert outcome.status == "error"
    assert any(said in outcome.message for said in REFUSED)
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "kept"


def test_a_call_starts_without_environment_and_with_light_modules(pool):
    heavy = "sorted({'jax', 'numpy', 'grain'} & set(__import__('sys').modules))"
    looked = f"[dict(__import__('os').environ), {heavy}]"
    assert _run(pool, looked)[0].value == [{}, []]


def test_a_call_has_nothing_open_but_its_pipe(pool):
    places = _run(pool, *[f"__import__('os').lseek({fd}, 0, 1)" for fd in range(16)])
    said = ["" if one.status == "ok" else one.message.split("] ")[1] for one in places]
    assert said == ["", "", "", "Illegal seek", *["Bad file descriptor"] * 12]


def test_a_call_sees_nothing_of_the_one_before(pool):
    _run(pool, *["setattr(__import__('json'), 'dumps', None)", "__import__('random').seed(5)"] * 4)
    draws = _run(pool, *["__import__('random').random()"] * 4)
    assert len({one.value for one in draws}) == 1 and draws[0].status == "ok"


def test_sets_of_strings_have_one_order_in_all_servers():
    found = []
    for _ in range(2):
        with sandbox.Pool(num_workers=2) as pool:
            found += _run(pool, *["list({chr(97 + i) * 3 for i in range(20)})"] * 2)
    assert len({json.dumps(one.value) for one in found}) == 1


def test_a_dead_server_is_replaced():
    with sandbox.Pool(num_workers=1) as pool:
        runner = pool._servers.get()
        pool._servers.put(runner)
        os.kill(runner._process.pid, signal.SIGKILL)
        runner._process.wait()
        assert _run(pool, "1 + 1")[0].value == 2


@pytest.mark.parametrize("argument", [{1}, float("nan"), b"bytes"])
def test_an_argument_that_is_no_json_is_an_error_of_its_call(pool, argument):
    calls = [sandbox.Call(function="builtins:repr", argument=one) for one in (argument, "a")]
    bad, good = pool.run(calls)
    assert bad.status == "error" and "is no JSON value" in bad.message
    assert good.value == "'a'"


def test_deep_and_large_arguments_are_errors_of_their_call(pool):
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    calls = [sandbox.Call(function="builtins:len", argument=one) for one in (deep, "a" * 2**21)]
    assert [one.status for one in pool.run(calls)] == ["error", "error"]
    while deep:  # freed level by level
        deep = deep.pop()


def test_a_function_that_is_not_there_is_an_error(pool):
    names = ("kanana_jax.nowhere:run", "json:nothing", "json")
    found = pool.run([sandbox.Call(function=name, argument=1) for name in names])
    assert [one.status for one in found] == ["error"] * 3


@pytest.mark.parametrize("wrong", [{"wall_s": 0.0}, {"cpu_s": 0.5}, {"memory_bytes": -1}])
def test_limits_that_limit_nothing_are_refused(wrong):
    with pytest.raises(config.ConfigError, match="expected limits above 0"):
        sandbox.Limits(**wrong)
