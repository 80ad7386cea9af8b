"""Errors of the data package, apart so that every module can raise them."""

from collections.abc import Iterable

from kanana_jax.errors import UserError

_LONGEST = 800  # characters of a message


class DataError(UserError, ValueError):
    """Text or a token store that cannot be used: one line that says expected, got, do."""

    def __init__(self, message: str):
        super().__init__(_one_line(message))


class StoreError(DataError):
    """A store, of tokens or of anything else, whose content is not what was written."""


def listed(names: Iterable[str]) -> str:
    """The names that are there, quoted, for an error: the first ten and how many more."""
    names = list(names)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return (", ".join(repr(name)[:80] for name in names[:10]) or "none") + more


def first_line(error: BaseException) -> str:
    """What an exception of another library says, without its full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")[:200]


def _one_line(message: str) -> str:
    # Names of files and keys may hold anything, line ends and halves of characters included.
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
    if len(shown) <= _LONGEST:
        return shown
    return f"{shown[: _LONGEST // 2]} ... {shown[-_LONGEST // 2 :]}"
