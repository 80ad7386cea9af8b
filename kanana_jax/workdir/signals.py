"""SIGTERM, SIGINT and SIGHUP: finish the step, save, leave.

Schedulers send SIGTERM some seconds before they kill; Ctrl-C sends SIGINT; a terminal or connection
that closes sends SIGHUP, unless nohup started the program.
"""

import contextlib
import os
import signal
import sys
import threading


class Stopped(BaseException):
    """The run was asked to stop; running it again misses nothing.

    Not an Exception: whoever retries or sets files aside on errors must let it pass.
    """


class StopRequest:
    """Whether a signal came. While not `holding`, the first one raises Stopped at once."""

    def __init__(self):
        self.is_set = False
        self._is_holding = False
        self._terminals = [number for number in (1, 2) if _is_terminal(number)]

    @contextlib.contextmanager
    def holding(self):
        """Inside, the first signal only sets `is_set`: there is a step to finish and to save."""
        before, self._is_holding = self._is_holding, True
        try:
            yield
        finally:
            self._is_holding = before

    def handle(self, number: int, frame: object) -> None:
        if number == signal.SIGHUP:
            self._leave_terminal()
            if self.is_set:
                return  # a shell that ends sends it once more
        if self.is_set:
            os._exit(128 + number)  # the second one: somebody is in a hurry
        self.is_set = True
        name = signal.Signals(number).name
        print(f"kanana_jax: {name}: saving and stopping; again to stop at once", file=sys.stderr)
        if not self._is_holding:
            raise Stopped

    def _leave_terminal(self) -> None:
        """A terminal that hung up fails every write; what is shown there is of no more use."""
        with open(os.devnull, "w") as nowhere:
            for number in self._terminals:
                os.dup2(nowhere.fileno(), number)


def _is_terminal(number: int) -> bool:
    with contextlib.suppress(OSError):
        return os.isatty(number)
    return False


@contextlib.contextmanager
def stop_request():
    """Yields the StopRequest that the signals set until the block is left."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may install handlers
        return
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # by nohup
        numbers.append(signal.SIGHUP)
    before = {one: signal.signal(one, request.handle) for one in numbers}
    try:
        yield request
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
