"""What does each step of curation do at equal tokens, also to another language? On a laptop.

    raw  ->  dedup  ->  heuristics  ->  education      of one crawl of known making (`crawl`)

Four arms read as many tokens: three quarters English of one depth of curation, and the same Korean
in all: template text, and a few sums with their steps. Measured are bits per byte of real English
prose, Korean text and Korean sums, none of which was read.
"""

from experiments.curation import corpora, settings, verdict
from kanana_jax.jobs import pretrain, sweep

experiment = settings.experiment
run = sweep.of(pretrain.JOB._replace(read=corpora.read), write_report=verdict.write)
