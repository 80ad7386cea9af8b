"""What keeps a call from harming others: limits of the process, and a filter of system calls."""

import mmap
import os
import resource
import signal
import socket
from collections.abc import Callable

from kanana_jax.rollouts.sandbox import seccomp
from kanana_jax.rollouts.sandbox.call import Limits

_OPEN_FILES = 16


def put_up(limits: Limits) -> None:
    """Puts up all guards that this system has, on the calling process and for good."""
    limited = {
        resource.RLIMIT_CPU: (limits.cpu_s, limits.cpu_s + 1),
        resource.RLIMIT_AS: (limits.memory_bytes, limits.memory_bytes),
        resource.RLIMIT_FSIZE: (0, 0),
        resource.RLIMIT_NOFILE: (_OPEN_FILES, _OPEN_FILES),
        resource.RLIMIT_NPROC: (0, 0),  # which does not hold for root
        resource.RLIMIT_CORE: (0, 0),
    }
    for which, values in limited.items():
        try:
            resource.setrlimit(which, values)
        except (ValueError, OSError):
            continue  # lower already, or unknown to this system: `holding` tells
    seccomp.die_with_parent(signal.SIGKILL)
    seccomp.install()


def holding(memory_bytes: int) -> list[str]:
    """The guards that hold in the calling process, each of them tried.

    "memory": no more than `memory_bytes` can be had; "files": none can be opened; "processes": none
    can be started; "sockets": none can be made; "signals": none can be sent. Time is limited on all
    systems.
    """
    tried: dict[str, Callable[[], object]] = {
        "memory": lambda: mmap.mmap(-1, memory_bytes).close(),
        "files": _open,
        "processes": _fork,
        "sockets": lambda: socket.socket(socket.AF_UNIX).close(),
        "signals": lambda: os.kill(os.getpid(), 0),
    }
    return [name for name, act in tried.items() if _is_refused(act)]


def refuses_files() -> bool:
    """Whether the calling process can open no file, as behind the filter of system calls."""
    return _is_refused(_open)


def _open() -> None:
    os.close(os.open(os.devnull, os.O_RDONLY))


def _fork() -> None:
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _is_refused(act: Callable[[], object]) -> bool:
    try:
        act()
    except OSError:
        return True
    return False
