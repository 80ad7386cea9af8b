"""A process that forks and watches one child per call; it imports no jax and no numpy.

    request  =  frame {"function": "module:name", "modules": [...], "limits": {...}}, frame argument
    reply    =  frame status (1 byte) + what the child wrote, or a message

Functions are imported here, so a child has them when it starts and opens no file.
"""

import contextlib
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from kanana_jax.rollouts.sandbox import child, frames, guards
from kanana_jax.rollouts.sandbox.call import Limits

REPLIED, ERROR, TIMEOUT, KILLED = b"r", b"e", b"t", b"k"


def main() -> None:
    """First reports the names of the guards that hold in a child; ends when the trainer does."""
    frames.write(1, json.dumps(_guards()).encode())
    while (header := frames.read(0)) is not None:
        argument = frames.read(0)
        if argument is None:
            return
        frames.write(1, b"".join(_answer(json.loads(header), argument)))


def _guards() -> list[str]:
    limits = Limits()
    status, content = _forked(guards.holding, json.dumps(limits.memory_bytes).encode(), limits)
    reply = json.loads(content) if status == REPLIED else {}
    if "value" not in reply:
        sys.exit(f"kanana_jax.rollouts.sandbox: no call can run here: {content.decode()}")
    return reply["value"]


def _answer(header: dict[str, Any], argument: bytes) -> tuple[bytes, bytes]:
    try:
        for module in header["modules"]:
            importlib.import_module(module)
        module, _, name = header["function"].partition(":")
        function = getattr(importlib.import_module(module), name)
    except Exception as error:
        return ERROR, f"{header['function']}: {type(error).__name__}: {error}".encode()
    return _forked(function, argument, Limits(**header["limits"]))


def _forked(function: Callable[[Any], Any], argument: bytes, limits: Limits) -> tuple[bytes, bytes]:
    folder = tempfile.mkdtemp(prefix="call-")
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        child.run(function, argument, folder, write_end, limits)
    os.close(write_end)
    try:
        return _watched(pid, read_end, limits)
    finally:
        os.close(read_end)
        shutil.rmtree(folder, ignore_errors=True)


def _watched(pid: int, fd: int, limits: Limits) -> tuple[bytes, bytes]:
    """What became of a child; it and its whole group are gone when this returns."""
    reply, is_late = None, False
    try:
        reply = frames.read(fd, time.monotonic() + limits.wall_s, limits.result_bytes)
    except TimeoutError:
        is_late = True
    except frames.TooLargeError:
        reply = json.dumps({"error": f"a result of more than {limits.result_bytes} bytes"}).encode()
    ended, used = _end(pid)
    if reply is not None:
        return REPLIED, reply
    if is_late or ended == signal.SIGXCPU or used.ru_utime + used.ru_stime >= limits.cpu_s:
        return TIMEOUT, f"more than {limits.wall_s} s, or {limits.cpu_s} s of a CPU".encode()
    return KILLED, (f"ended by signal {ended}" if ended else "ended without a reply").encode()


def _end(pid: int) -> tuple[int, resource.struct_rusage]:
    """Kills a child and its group; returns the signal that ended it, perhaps an earlier one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):  # it may not have made its group yet
        os.kill(pid, signal.SIGKILL)
    _, status, used = os.wait4(pid, 0)
    return (os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0), used
