"""What a fit says when the data cannot answer it."""

from kanana_jax.errors import UserError


class LawError(UserError, ValueError):
    """The runs, or their design, do not tell what was asked of them."""
