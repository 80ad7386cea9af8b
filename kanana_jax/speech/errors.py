"""Errors of speech that a user can fix."""

from kanana_jax.errors import UserError


class AudioError(UserError, ValueError):
    """Sound that cannot be used, and why."""


class SpeechError(UserError, ValueError):
    """A folder, a voice or a setting of speech that cannot be used."""
