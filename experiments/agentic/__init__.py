"""What does a tiny agent learn from synthesised conversations, and what are their filters for?

    base (prose)  ->  sft: kept         conversations that reached their goal
                  ->  sft: unfiltered   as many by the same agent, whatever their outcome

A script stands in for the models that write and play (`script`): in half of the conversations its
agent does nothing but says that it is done. Held-out goals are measured in a domain with
conversations and in one without any, both by the tables after the calls.
"""

from experiments.agentic import jobs, settings, verdict
from kanana_jax.jobs import pipeline, sweep

experiment = settings.experiment
run = pipeline.of({name: sweep.of(job) for name, job in jobs.JOBS.items()}, verdict.write)
