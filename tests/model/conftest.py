"""Shapes and dtypes of every public signature of the model are checked while its tests run."""

import jaxtyping

with jaxtyping.install_import_hook("kanana_jax.model", "beartype.beartype"):
    import kanana_jax.model  # noqa: F401
