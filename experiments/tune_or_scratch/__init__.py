"""Go on from a model of other texts, or train from scratch? A path test for a laptop.

ATLAS (arXiv:2510.22037) finds that going on is ahead at first, and that training from scratch is
ahead from some number of tokens on. A base reads English, docstrings and Python. Then it goes on
with Korean, and a new model of its size reads the same Korean in the same order. Both keep a
constant rate and are measured with averaged weights. As in `atlas`, the Korean comes from
templates: the numbers say nothing about languages.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments import atlas
from experiments.tune_or_scratch import verdict
from experiments.tune_or_scratch.picture import LossOfTokens
from experiments.tune_or_scratch.verdict import BASE, SCRATCH, TUNED
from kanana_jax import data
from kanana_jax.data import template_text
from kanana_jax.jobs import pipeline, sweep
from kanana_jax.report import stages
from kanana_jax.report.results import Run


def korean() -> Iterator[bytes]:
    """More than a run reads, so that nothing is repeated."""
    return (one.encode() for one in template_text.documents("ko", seed=0, count=4000))


JOB = atlas.JOB._replace(
    read=functools.partial(data.read_text, streams=atlas.STREAMS | {verdict.TARGET: korean})
)


def write(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
    headline, found = verdict.judge(runs)
    return stages.write(
        runs, about, path, headline=headline, claims_found=found, pictures=(LossOfTokens(),)
    )


run = pipeline.of(dict.fromkeys((BASE, TUNED, SCRATCH), sweep.of(JOB)), write_report=write)


def _stage(name: str, question: str, weights: tuple[float, ...], **places) -> pipeline.Stage:
    made = atlas.experiment().base
    base = dataclasses.replace(
        made,
        name=name,
        question=question,
        model=atlas.shape(64),
        data=dataclasses.replace(made.data, weights=weights),
    )
    return pipeline.Stage(name, sweep.Sweep(base=base, seeds=3), **places)


def experiment() -> pipeline.Pipeline:
    others, target = (0.0, 1.0, 1.0, 1.0), (1.0, 0.0, 0.0, 0.0)
    return pipeline.Pipeline(
        name="tune_or_scratch",
        question="Go on from a model of other texts, or train from scratch?",
        stages=(
            _stage(BASE, "What do other texts teach?", others),
            _stage(TUNED, "What does going on give?", target, init_from=BASE),
            _stage(SCRATCH, "What does training from scratch give?", target),
        ),
    )
