"""The error of this package, and how errors are shown; apart so that all modules can import it."""

from kanana_jax.config import shown as shown
from kanana_jax.config import some as some
from kanana_jax.errors import UserError


class CheckpointError(UserError, ValueError):
    """Files that cannot be used: one line that says expected, got, do."""

    def __init__(self, message: str):
        # Names come from files, and those may break lines.
        super().__init__(" ".join(message.splitlines()))


def first_line(error: Exception) -> str:
    """The first line of an error's message; the error's name where it has no message."""
    return (str(error).strip() or repr(error)).splitlines()[0]
