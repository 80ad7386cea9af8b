"""What the verdict needs to know about an arm, read off its runs' settings.

QK-Clip acts on clipped arms. They are compared with references, the Muon arms without it.
"""

from collections.abc import Sequence

from kanana_jax.report import results
from kanana_jax.report.results import Run

RATE = "optimizer.lr"


def lr(run: Run) -> float:
    """The peak learning rate."""
    return run.config["optimizer"]["lr"]


def lrs(runs: Sequence[Run]) -> list[float]:
    return sorted({lr(run) for run in runs})


def at(runs: Sequence[Run], rate: float) -> list[Run]:
    """The runs at a learning rate."""
    return [run for run in runs if lr(run) == rate]


def cell(runs: Sequence[Run], arm: str, rate: float) -> list[Run]:
    """The seeds of an arm at a learning rate."""
    return results.select(at(runs, rate), arm=arm)


def is_clipped(run: Run) -> bool:
    return run.config["optimizer"]["name"] == "muonclip"


def is_muon(run: Run) -> bool:
    return run.config["optimizer"]["name"] != "adamw"


def is_reference(run: Run) -> bool:
    return is_muon(run) and not is_clipped(run)


def tau(run: Run) -> float:
    """The threshold of QK-Clip; max logits of unclipped arms are measured by it too."""
    return run.config["optimizer"]["tau"]
