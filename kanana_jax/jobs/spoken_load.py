"""Listeners of a speech server in simulated time, one policy against another; nothing is trained.

The device is known by its costs, which `python -m kanana_jax.generate.serve.bench` measures: see
`generate.streams.simulated`. A run has a policy, a number of listeners and a seed, which decides
when they first ask and how long answers are.
"""

import dataclasses
import json
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from kanana_jax import config
from kanana_jax.config import fields, listing
from kanana_jax.config.paths import folder_name
from kanana_jax.config.ranges import Count, Range
from kanana_jax.generate.streams import playback, scheduling, simulated
from kanana_jax.report import results
from kanana_jax.workdir import lock, provenance, storage

Seconds = Annotated[float, Range(0.0, 1e5, "a day and more")]
Cost = Annotated[float, Range(0.0, 60.0, "seconds of a turn")]
LISTENERS = "listeners"


@dataclass(frozen=True, kw_only=True)
class Config:
    """A load, and a device by its costs."""

    name: Annotated[str, folder_name]
    question: str
    arms: tuple[str, ...] = tuple(scheduling.POLICIES)
    listeners: tuple[Count, ...] = (8, 16, 32, 64)
    seeds: Count = 3
    first_asked_within_s: Seconds = 1.0
    seconds: Seconds = 60.0  # in which listeners ask
    shortest_tokens: Count = 50
    longest_tokens: Count = 150
    fixed_s: Cost = 0.02
    per_stream_s: Cost = 0.0005
    per_prompt_s: Cost = 0.003
    width: Count = 16
    num_rows: Count = 64
    tokens_per_turn: Count = 4

    def __post_init__(self):
        fields.check(self, "")
        unknown = sorted({*self.arms} - scheduling.POLICIES.keys())
        if unknown or not self.arms:
            raise config.ConfigError(
                f"arms must be some of {', '.join(scheduling.POLICIES)}, got {self.arms}"
            )
        if not self.listeners:
            raise config.ConfigError("listeners must name one number or more, got none")
        if self.longest_tokens < self.shortest_tokens:
            raise config.ConfigError(
                f"longest_tokens must be at least shortest_tokens = {self.shortest_tokens}, got "
                f"{self.longest_tokens}"
            )
        if not self.fixed_s + self.per_stream_s:
            raise config.ConfigError("fixed_s and per_stream_s must not both be 0")

    def edited(self, edits: Iterable[str]) -> Self:
        """With `path=value` edits applied; raises ConfigError."""
        return config.edit(self, edits)

    def listing(self) -> str:
        return listing.table(self)

    def heard(self, arm: str, number: int, seed: int) -> list[playback.Heard]:
        """What `number` listeners hear under the policy `arm`."""
        rng = random.Random(f"{seed} {number}")
        asked = [(rng.uniform(0, self.first_asked_within_s), one) for one in range(number)]
        names = [field.name for field in dataclasses.fields(simulated.Device)]
        return simulated.simulate(
            simulated.Device(**{name: getattr(self, name) for name in names}),
            scheduling.POLICIES[arm],
            asked,
            tokens=(self.shortest_tokens, self.longest_tokens),
            seconds=self.seconds,
            seed=seed,
        )


WriteReport = Callable[[Sequence[results.Run], Mapping[str, Any], Path], str]


def of(write_report: WriteReport) -> Callable[[Config, Path], None]:
    """run(cfg, workdir): simulates all runs, writes their results, and prints the report."""

    def run(cfg: Config, workdir: Path) -> None:
        workdir = storage.expect_workdir(workdir)
        record = json.loads(config.to_json(cfg))
        with storage.needed(workdir), lock.held(workdir):
            provenance.write(workdir, record)
            runs = []
            for number in cfg.listeners:
                for seed in range(cfg.seeds):
                    for arm in cfg.arms:
                        began_s = time.monotonic()
                        heard = cfg.heard(arm, number, seed)
                        axes = {results.ARM: arm, LISTENERS: number, results.SEED: seed}
                        seconds = time.monotonic() - began_s
                        runs.append(_written(workdir, axes, heard, seconds, record))
            path = workdir / "report.html"
            print(f"{write_report(runs, provenance.load(workdir), path)}\n\nReport: {path}")

    return run


def _written(
    workdir: Path,
    axes: Mapping[str, Any],
    heard: Sequence[playback.Heard],
    seconds: float,
    record: Mapping[str, Any],
) -> results.Run:
    """Writes a run's folder; returns what a report reads of it."""
    values = playback.summary(heard, axes[LISTENERS])
    values["underruns_per_minute"] = 60 * values["underruns"] / values["sound_s"]
    directory = workdir / f"{axes[results.ARM]}-{axes[LISTENERS]}-seed{axes[results.SEED]}"
    directory.mkdir(exist_ok=True)
    content = {
        "status": "ok",
        "diverged_step": None,
        "steps": len(heard),
        "seconds": seconds,
        "axes": axes,
        "values": {name: value for name, value in values.items() if math.isfinite(value)},
    }
    provenance.write_whole(directory / results.RESULT_NAME, json.dumps(content, indent=2))
    provenance.write_whole(directory / results.RUN_NAME, json.dumps({"config": record}))
    return results.load(directory)
