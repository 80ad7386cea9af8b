"""Bytes of known length over a pipe: frame = length (4 bytes, big-endian) + content."""

import os
import select
import time

_HEADER = 4


def pack(content: bytes) -> bytes:
    return len(content).to_bytes(_HEADER) + content


class TooLargeError(Exception):
    """A frame is longer than it may be."""


def read(fd: int, deadline: float | None = None, most: int = 2**31) -> bytes | None:
    """The next frame; None where the pipe ended before. TimeoutError past `deadline`."""
    header = _read_exactly(fd, _HEADER, deadline)
    if header is None:
        return None
    if int.from_bytes(header) > most:
        raise TooLargeError
    return _read_exactly(fd, int.from_bytes(header), deadline)


def write(fd: int, content: bytes, deadline: float | None = None) -> None:
    """Writes one frame. TimeoutError past `deadline`, which needs a pipe that does not block."""
    left = memoryview(pack(content))
    while left:
        if deadline is not None:
            _wait([], [fd], deadline)
        left = left[os.write(fd, left) :]


def _read_exactly(fd: int, size: int, deadline: float | None) -> bytes | None:
    parts: list[bytes] = []
    while size:
        if deadline is not None:
            _wait([fd], [], deadline)
        part = os.read(fd, min(size, 2**16))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _wait(readers: list[int], writers: list[int], deadline: float) -> None:
    left = max(0.0, deadline - time.monotonic())
    poll = select.poll()  # select.select takes no descriptor above 1023
    for fd in readers:
        poll.register(fd, select.POLLIN)
    for fd in writers:
        poll.register(fd, select.POLLOUT)
    if not poll.poll(left * 1000):
        raise TimeoutError
