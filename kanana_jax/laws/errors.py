"""What a fit raises when the data cannot answer it."""

from kanana_jax.errors import UserError


class LawError(UserError, ValueError):
    """The runs, or their design, cannot answer what was asked."""
