"""One finished run, read from its directory: result.json and metrics.jsonl."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from kanana_jax.report import metrics, statistics
from kanana_jax.report.metrics import Series

RESULT_NAME = "result.json"


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What became of one arm at one learning rate with one seed."""

    arm: str
    lr: float  # peak
    seed: int
    status: Literal["ok", "diverged"]
    diverged_step: int | None
    directory: Path
    tau: float
    clipped: bool  # the arm applies QK-Clip
    optimizer: str = ""  # "adamw", "muon" or "muonclip"; empty: judged by the arm's name
    num_steps: int = 0
    seconds: float = math.nan
    initial_loss: float = math.nan
    final_loss: float = math.nan
    final_heldout_bpb: float = math.nan
    final_heldout_bpb_stderr: float = math.nan
    heldout_text: str = ""  # names the sequences of the held-out loss

    @cached_property
    def metrics(self) -> dict[str, Series]:
        """Every recorded series, read once."""
        return metrics.read_metrics(self.directory / metrics.METRICS_NAME)

    def series(self, key: str) -> Series:
        """The series of one metric, empty when the run did not record it."""
        return self.metrics.get(key, metrics.empty_series())

    @cached_property
    def heldout(self) -> statistics.Heldout | None:
        """The loss of every held-out sequence at the end, None where it was not recorded."""
        nats, num_bytes = self.series("heldout_nats"), self.series("heldout_bytes")
        if self.diverged or not len(nats.steps_N):
            return None
        return statistics.Heldout(nats.values_N[-1], num_bytes.values_N[-1], self.heldout_text)

    @property
    def diverged(self) -> bool:
        return self.status == "diverged"

    @property
    def is_muon(self) -> bool:
        return "adam" not in (self.optimizer or self.arm).lower()

    @cached_property
    def peak_max_logit(self) -> float:
        """The largest max logit of the run; NaN when none was recorded."""
        values_N = self.series("max_logit").values_N
        return float(np.nanmax(values_N)) if np.any(~np.isnan(values_N)) else math.nan

    @cached_property
    def tail_max_logit(self) -> float:
        """Mean of the max logit over the last tenth of the steps recorded."""
        values_N = self.series("max_logit").values_N
        return (
            float(np.mean(values_N[-math.ceil(len(values_N) / 10) :]))
            if len(values_N)
            else math.nan
        )

    @cached_property
    def clip_events(self) -> int:
        """How often a head was clipped: heads summed over steps."""
        return int(np.nansum(self.series("clip_count").values_N))


def load(directory: str | os.PathLike) -> RunResult:
    """Reads the result that the training loop left in a run's directory."""
    directory = Path(directory)
    path = directory / RESULT_NAME
    if not path.exists():
        raise ValueError(f"expected a finished run with {RESULT_NAME}, got {directory}")
    record = json.loads(path.read_text())
    missing = {"arm", "lr", "seed", "status", "tau", "clips"} - record.keys()
    if missing:
        raise ValueError(f"{path} lacks {sorted(missing)}; it has {sorted(record)}")

    def number(key: str) -> float:
        value = record.get(key)
        return math.nan if value is None else float(value)

    return RunResult(
        arm=record["arm"],
        lr=float(record["lr"]),
        seed=int(record["seed"]),
        status=record["status"],
        diverged_step=record.get("diverged_step"),
        directory=directory,
        tau=float(record["tau"]),
        clipped=bool(record["clips"]),
        optimizer=record.get("optimizer", ""),
        num_steps=int(record.get("num_steps", 0)),
        seconds=number("seconds"),
        initial_loss=number("initial_loss"),
        final_loss=number("final_loss"),
        final_heldout_bpb=number("final_heldout_bpb"),
        final_heldout_bpb_stderr=number("final_heldout_bpb_stderr"),
        heldout_text=record.get("heldout_text", ""),
    )


def arms(results: Sequence[RunResult]) -> list[str]:
    """Arm names in the order in which they first appear."""
    return list(dict.fromkeys(result.arm for result in results))


def lrs(results: Sequence[RunResult]) -> list[float]:
    return sorted({result.lr for result in results})


def taus(results: Sequence[RunResult]) -> list[float]:
    return sorted({result.tau for result in results})


def select(
    results: Sequence[RunResult], *, arm: str | None = None, lr: float | None = None
) -> list[RunResult]:
    """The runs of one arm, one learning rate, or both: the seeds of one cell."""
    return [
        result
        for result in results
        if (arm is None or result.arm == arm) and (lr is None or result.lr == lr)
    ]
