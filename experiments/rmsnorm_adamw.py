"""The comparison of `rmsnorm` under AdamW, around its own best rate. On a laptop, real text.

Muon's updates have no outlying directions but AdamW's do, so gains may matter in another way.
"""

import dataclasses

from experiments import rmsnorm
from kanana_jax.jobs import sweep

run = rmsnorm.run


def experiment() -> sweep.Sweep:
    muon = rmsnorm.experiment()
    base = dataclasses.replace(
        muon.base,
        name="rmsnorm_adamw",
        optimizer=dataclasses.replace(muon.base.optimizer, name="adamw"),
    )
    rates = sweep.Axis("optimizer.lr", (0.001, 0.002, 0.004))
    return dataclasses.replace(muon, base=base, axes=(rates,))
