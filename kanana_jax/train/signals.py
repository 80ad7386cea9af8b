"""SIGTERM and SIGINT: finish the step, save, leave.

Schedulers send SIGTERM some seconds before they kill; Ctrl-C sends SIGINT.
"""

import contextlib
import os
import signal
import sys
import threading


class Stopped(BaseException):
    """The run was asked to stop and left nothing behind that running it again would miss.

    Not an Exception: whoever retries or sets files aside on errors must let it pass.
    """


class StopRequest:
    """Whether a signal came. While not `holding`, the first one raises Stopped at once."""

    def __init__(self):
        self.is_set = False
        self._is_holding = False

    @contextlib.contextmanager
    def holding(self):
        """Inside, the first signal only sets `is_set`: there is a step to finish and to save."""
        before, self._is_holding = self._is_holding, True
        try:
            yield
        finally:
            self._is_holding = before

    def handle(self, number: int, frame: object) -> None:
        if self.is_set:
            os._exit(128 + number)  # the second one: somebody is in a hurry
        self.is_set = True
        name = signal.Signals(number).name
        print(f"kanana_jax: {name}: saving and stopping; again to stop at once", file=sys.stderr)
        if not self._is_holding:
            raise Stopped


@contextlib.contextmanager
def stop_request():
    """Yields the StopRequest that SIGTERM and SIGINT set until the block is left."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may install handlers
        return
    before = {one: signal.signal(one, request.handle) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
