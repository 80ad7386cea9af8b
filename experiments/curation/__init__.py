"""What does each step of curation do at equal tokens, also to another language? On a laptop.

    raw  ->  dedup  ->  heuristics  ->  education      of one crawl of known making (`crawl`)

Four arms read equally many tokens. Three quarters are English at one depth of curation; the rest is
the same Korean in all arms: template text, and a few sums with their steps. The measures are bits
per byte of real English prose, Korean text and Korean sums, none of which was read.
"""

from experiments.curation import corpora, settings, verdict
from kanana_jax.jobs import pretrain, sweep

experiment = settings.experiment
run = sweep.of(pretrain.JOB._replace(read=corpora.read), write_report=verdict.write)
