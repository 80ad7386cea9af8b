"""Checks the types and array shapes of kanana_jax.report while its tests run."""

import jaxtyping

with jaxtyping.install_import_hook("kanana_jax.report", "beartype.beartype"):
    import kanana_jax.report  # noqa: F401
