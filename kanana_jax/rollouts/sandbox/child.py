"""The process of one call: puts up its guards, calls the function, writes one reply, ends.

reply = {"value": ...} or {"error": "..."} as JSON, in one frame
"""

import json
import os
import random
from collections.abc import Callable
from typing import Any, NoReturn

from kanana_jax.rollouts.sandbox import frames, guards
from kanana_jax.rollouts.sandbox.call import Limits

_REPLY_FD = 3
_MOST_OF_A_MESSAGE = 500


def run(
    function: Callable[[Any], Any], argument: bytes, folder: str, fd: int, limits: Limits
) -> NoReturn:
    """In a forked process. A model may have written the argument, so it is read behind the guards.

    Whatever the function does to this process, such as writing a reply of its own, changes only
    the reply to this call.
    """
    try:
        fd = isolate(folder, fd)
        guards.put_up(limits)
        random.seed(0)
        reply = json.dumps({"value": function(json.loads(argument))})
    except BaseException as error:
        reply = json.dumps({"error": _said(error)})
    try:
        frames.write(fd, reply.encode())
    finally:
        os._exit(0)


def isolate(folder: str, fd: int) -> int:
    """Leaves only an empty folder and one pipe of the parent's world; returns its new number."""
    os.setpgid(0, 0)
    os.chdir(folder)
    os.environ.clear()
    null = os.open(os.devnull, os.O_RDWR)
    kept = os.dup(fd)  # 0 to 3 may be any of the parent's files
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.dup2(kept, _REPLY_FD)
    os.closerange(_REPLY_FD + 1, os.sysconf("SC_OPEN_MAX"))
    return _REPLY_FD


def _said(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:_MOST_OF_A_MESSAGE]
    except BaseException:
        return type(error).__name__
