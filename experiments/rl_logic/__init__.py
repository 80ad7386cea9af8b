"""Does a reward for right answers teach a model to reason, on problems longer than it has read?

    base -> rl: grpo, squared, no stored text
         -> more: as many tokens of the base's own kind of answers

The base reasons in one answer of seven (`world`). The rewarded problems are longer than any that it
has read. Measured before and after, by sampled answers: held-out problems of the lengths that it
has read, of the lengths that are rewarded, of longer ones, and of another family; and the loss of
its text, a tenth of which each batch still holds.
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
