"""Checks the types and array shapes of what reports are made of while their tests run."""

import sys
from pathlib import Path

import jaxtyping

sys.path.append(str(Path(__file__).parents[1] / "report"))  # for fabricate

with jaxtyping.install_import_hook(
    [
        "kanana_jax.report",
        "kanana_jax.jobs.curves",
        "experiments.muon_stress",
        "experiments.router_balance",
    ],
    "beartype.beartype",
):
    import kanana_jax.jobs.curves
    import kanana_jax.report  # noqa: F401
