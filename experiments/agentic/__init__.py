"""What does a tiny agent learn of synthesised conversations, and what are their filters for?

    base (prose)  ->  sft: kept         conversations that reached their goal
                  ->  sft: unfiltered   as many of the same agent, whatever came of them

A script stands in for the models that write and play (`script`): its agent does nothing in half of
the conversations, and says that it has. Measured are held-out goals of a domain that conversations
are of, and of one that none is of; both by the tables after the calls.
"""

from experiments.agentic import jobs, settings, verdict
from kanana_jax.jobs import pipeline, sweep

experiment = settings.experiment
run = pipeline.of({name: sweep.of(job) for name, job in jobs.JOBS.items()}, verdict.write)
