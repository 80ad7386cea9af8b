"""What all files in the cache of tokens share: a name made from their content, and a lock."""

import contextlib
import fcntl
import hashlib
import pathlib
from collections.abc import Iterator


def digest(*parts: object) -> str:
    """A short name, equal for equal parts."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Inside, no other process writes `path`."""
    with open(path.parent / f"{path.name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released by the system if this process dies
        yield
