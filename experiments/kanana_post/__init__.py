"""From the first token to a model that answers, uses tools and knows when it is right. On a laptop.

    base -> mid -> sft -> rejection -> dpo -> online -> calibration        the instruct product
             |      |         |
             |      |         +-> reward, the judge of online;  chosen, the control of dpo
             |      +-> more_sft, the control of rejection
             +-> thinking                                                  the thinking product

Tasks are sums modulo 5, products by a calculator, and greetings with a rubric of style, in English
and Korean. Both products learn from the same conversations, the instruct one without the reasoning
in them. `--set=seeds=3` trains three of everything.
"""

from experiments.kanana_post import jobs, settings, verdict
from kanana_jax.jobs import pipeline, sweep

run = pipeline.of({name: sweep.of(job) for name, job in jobs.JOBS.items()}, verdict.write)


def experiment() -> pipeline.Pipeline:
    return pipeline.Pipeline(
        name="kanana_post",
        question="What does each stage after pre-training add?",
        stages=settings.stages(),
    )
