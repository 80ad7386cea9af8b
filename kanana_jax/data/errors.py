"""Errors of the data package, apart so that every module can raise them."""


class DataError(ValueError):
    """Text or a token store that cannot be used: one line that says expected, got, do."""


class StoreError(DataError):
    """A token store whose content is not what was written."""
