"""Does a reward for right answers teach a model to reason, on problems longer than it has read?

    base -> rl: grpo, squared, no stored text
         -> more: as many tokens of the base's own kind of answers

The base reasons in one out of seven answers (`world`). The rewarded problems are at least as long
as the longest that it has read. Sampled answers, before and after, measure held-out problems of the
lengths that it has read, of the lengths that are rewarded, of longer ones, and of another family.
The loss of its text, which still fills a ninth of each batch, is measured too.
"""

from experiments.rl_logic import jobs, settings, verdict
from kanana_jax.jobs import pipeline, sweep

run = pipeline.of({name: sweep.of(job) for name, job in jobs.JOBS.items()}, verdict.write)


def experiment() -> pipeline.Pipeline:
    return pipeline.Pipeline(
        name="rl_logic",
        question="Does a reward for right answers teach a model to reason?",
        stages=settings.stages(),
    )
