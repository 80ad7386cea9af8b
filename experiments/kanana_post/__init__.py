"""From the first token to a model that answers, uses tools and knows when it is right. On a laptop.

    base -> mid -> sft -> rejection -> dpo -> online -> calibration        the instruct product
             |      |         |
             |      |         |      +-> online_by_model
             |      |         +-> reward, the judge of that;  chosen, the control of dpo
             |      +-> more_sft, the control of rejection
             +-> thinking                                                  the thinking product

Tasks are sums modulo 5, products by a calculator, and greetings with a rubric of style, in English
and Korean. Both products learn from the same conversations, the instruct one without the reasoning
in them. `--set=seeds=3` trains three of everything. `made` and `running` take another size.
"""

from collections.abc import Callable
from pathlib import Path

from experiments.kanana_post import jobs, settings, verdict
from experiments.kanana_post.size import LAPTOP, Size
from kanana_jax.jobs import pipeline, sweep


def running(size: Size) -> Callable[[pipeline.Pipeline, Path], None]:
    return pipeline.of(
        {name: sweep.of(job) for name, job in jobs.of(size).items()}, verdict.writer(size)
    )


def made(name: str, size: Size) -> pipeline.Pipeline:
    return pipeline.Pipeline(
        name=name,
        question="What does each stage after pre-training add?",
        stages=settings.stages(size),
    )


run = running(LAPTOP)


def experiment() -> pipeline.Pipeline:
    return made("kanana_post", LAPTOP)
