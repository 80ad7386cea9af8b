"""The error of this package, apart so that every module can raise it."""


class CheckpointError(ValueError):
    """Files that cannot be used: one line that says expected, got, do."""


def some(names: list[str], shown: int = 5) -> str:
    """The first few of a long list of names, and how many more there are."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")
