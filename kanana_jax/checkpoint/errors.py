"""The error of this package, and how errors are told; apart so that every module can import it."""

import reprlib
from typing import Any

_SHORT = reprlib.Repr(maxstring=100, maxother=100, maxlong=60)


class CheckpointError(ValueError):
    """Files that cannot be used: one line that says expected, got, do."""

    def __init__(self, message: str):
        # Names come from files, and those may break lines.
        super().__init__(" ".join(message.splitlines()))


def shown(value: Any) -> str:
    """What a file says, as far as it fits in a line."""
    return _SHORT.repr(value)


def some(names: list[str], shown: int = 5) -> str:
    """The first few of a long list of names, and how many more there are."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def first_line(error: Exception) -> str:
    """An error's message, as far as it fits in one of ours; its name where it has none."""
    return (str(error).strip() or repr(error)).splitlines()[0]
