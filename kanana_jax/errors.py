"""The base of every error that a user can mend, and how a program ends with one."""

import contextlib
import sys
from collections.abc import Iterator
from typing import NoReturn


class UserError(Exception):
    """What was expected, what came, what to do. Programs print it and leave with `exit_code`."""

    exit_code = 2  # nothing was written


def leave(program: str, error: Exception, exit_code: int) -> NoReturn:
    """Prints "program: message" as one line on stderr and ends the process."""
    print(f"{program}: {' '.join(str(error).splitlines())}", file=sys.stderr)
    sys.exit(exit_code)


@contextlib.contextmanager
def reported(program: str) -> Iterator[None]:
    """Inside, a UserError ends the process with one line and its exit code; others are our bugs."""
    try:
        yield
    except UserError as error:
        leave(program, error, error.exit_code)
