"""The base of every error that a user can mend: one line for the terminal, and an exit code."""


class UserError(Exception):
    """What was expected, what came, what to do. Programs print it and leave with `exit_code`."""

    exit_code = 2  # nothing was written
