"""When more listeners ask than fit in a turn, who goes first? A speech server in simulated time.

First come serves a stream to its end. By slack, a stream that is ahead of its listener waits for
streams that nobody hears yet. It takes seconds on a laptop: turns cost what the settings say. Give
the costs of your device by --set; `python -m kanana_jax.generate.serve.bench` helps to find them.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.speech_serving import picture, verdict
from kanana_jax.jobs import spoken_load
from kanana_jax.report import comparison
from kanana_jax.report.results import Run


def write(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
    judged = verdict.judge(runs)
    return comparison.write(runs, about, path, curves=[picture.Waits()], verdict=judged)


run = spoken_load.of(write)


def experiment() -> spoken_load.Config:
    return spoken_load.Config(
        name="speech_serving",
        question="Does scheduling by playback slack let listeners hear sooner, and wait no more?",
        listeners=(8, 16, 32, 64, 96),
        seeds=5,
    )
