"""Do rewrites of a text, each read once, teach more than a text read again? On a laptop.

    raw x 30  |  1 rewrite x 30  |  30 rewrites x 1        then questions about half of the people

Three arms read equally many tokens about the same people (`world`). The measure is the share of
questions about the other half that greedy answers get right. Programs write the rewrites here;
`kanana_jax.synthesize` gets them from a model behind an endpoint.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from experiments.rephrase import settings, verdict, world
from kanana_jax import config, data
from kanana_jax.jobs import pretrain, solving, sweep
from kanana_jax.jobs.job import Built, measuring

experiment = settings.experiment


def _answered(
    corpus: data.Corpus, cfg: config.DataConfig, train: config.TrainConfig, built: Built
) -> Any:
    return solving.accuracy(
        world.measured_questions(), corpus.tokenizer, train.num_steps, built, max_tokens=8
    )


def running(streams: Mapping[str, Callable[[], Iterator[bytes]]], arms: Sequence[str]) -> Any:
    """The `run` of an experiment whose arms read these texts."""
    read = functools.partial(data.read_text, streams=streams)
    job = measuring(pretrain.JOB._replace(read=read), _answered)
    return sweep.of(job, write_report=verdict.writer(arms))


run = running(world.TEXTS, settings.ARMS)
