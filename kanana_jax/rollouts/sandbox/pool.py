"""Server processes that run calls, several at a time.

    trainer  --request-->  server (stdlib and our light modules)  --fork-->  child, one per call
             <--reply----                                         <--reply--

A child lives for one call, so no call sees what another left behind. A server that ends is replaced
by a new one.
"""

import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from kanana_jax.rollouts.sandbox import frames, server
from kanana_jax.rollouts.sandbox.call import Call, Limits, Outcome, Status

_ROOT = Path(__file__).parents[3]
_START_S = 60.0
_GRACE_S = 10.0  # for a server to notice that a call is late
_STATUS: dict[bytes, Status] = {
    server.ERROR: "error",
    server.TIMEOUT: "timeout",
    server.KILLED: "killed",
}


class Pool:
    """Runs calls while it is open as a context manager, for one thread at a time."""

    def __init__(self, *, num_workers: int = 2, limits: Limits = Limits()):
        self._num_workers, self._limits = num_workers, limits
        self._servers: queue.SimpleQueue[_Server] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        self._threads = ThreadPoolExecutor(self._num_workers)
        for one in self._threads.map(lambda _: _Server(), range(self._num_workers)):
            self._servers.put(one)
            self._guards = one.guards
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()
        while not self._servers.empty():
            self._servers.get().end()

    @property
    def guards(self) -> tuple[str, ...]:
        """The guards that hold in every call here, as tried in one call: see guards.holding.

        Without "files", "processes", "sockets" and "signals", as on systems other than Linux, run
        no text that a model wrote.
        """
        return self._guards

    def run(self, calls: Sequence[Call]) -> list[Outcome]:
        """The outcomes in the order of the calls."""
        return list(self._threads.map(self._run_one, calls))

    def _run_one(self, call: Call) -> Outcome:
        try:
            argument = json.dumps(call.argument, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            return Outcome(status="error", message=f"the argument is no JSON value: {error}"[:500])
        if len(argument) > self._limits.argument_bytes:
            most = self._limits.argument_bytes
            return Outcome(status="error", message=f"an argument of more than {most} bytes")
        runner = self._servers.get()
        try:
            if not runner.is_alive():
                runner.end()
                runner = _Server()
            return runner.run(call, argument, self._limits)
        finally:
            self._servers.put(runner)


class _Server:
    """One server process, for one call at a time."""

    def __init__(self):
        start = f"import sys; sys.path.insert(0, {str(_ROOT)!r}); "
        start += "from kanana_jax.rollouts.sandbox import server; server.main()"
        # Like -I, these flags and this environment leave only installed packages to import; but -I
        # would also give sets of strings a new order at every start.
        self._process = subprocess.Popen(
            [sys.executable, "-s", "-P", "-c", start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            env={"PYTHONHASHSEED": "0"},
            start_new_session=True,  # an interrupt from a terminal is for the trainer
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._replies = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._requests, False)
        guards = frames.read(self._replies, time.monotonic() + _START_S)
        if guards is None:
            self.end()
            raise RuntimeError("a process of the sandbox ended at its start; see its message above")
        self.guards: tuple[str, ...] = tuple(json.loads(guards))

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def run(self, call: Call, argument: bytes, limits: Limits) -> Outcome:
        shown = {"function": call.function, "modules": call.modules}
        header = json.dumps({**shown, "limits": dataclasses.asdict(limits)}).encode()
        deadline = time.monotonic() + limits.wall_s + _GRACE_S
        try:
            frames.write(self._requests, header, deadline)
            frames.write(self._requests, argument, deadline)
            reply = frames.read(self._replies, deadline)
        except TimeoutError:
            self.end()
            return Outcome(status="timeout", message="the sandbox did not answer in time")
        except BrokenPipeError:
            reply = None
        if reply is None:
            self.end()
            return Outcome(status="killed", message="the process that ran the call ended")
        return _outcome(reply[:1], reply[1:])

    def end(self) -> None:
        """Ends the server, and with it its child."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        if self.is_alive():
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()


def _outcome(code: bytes, content: bytes) -> Outcome:
    """What a child wrote may be anything."""
    if code != server.REPLIED:
        return Outcome(status=_STATUS[code], message=content.decode(errors="replace"))
    try:
        reply = json.loads(content)
    except (ValueError, RecursionError):
        reply = None
    match reply:
        case {"value": value}:
            return Outcome(status="ok", value=value)
        case {"error": str(message)}:
            return Outcome(status="error", message=message)
    return Outcome(status="error", message="what the call wrote is no reply")
