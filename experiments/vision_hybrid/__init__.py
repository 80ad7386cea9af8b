"""Does reasoning over an image, in one model with direct answers, pay for its tokens?

Receipts, tables, forms and charts in English and Korean are drawn while models train on questions
about them. The arms see as many positions of as many rows:

    hybrid          answers directly, or with steps, or twice, as the system message says
    direct          answers directly only
    English steps   as hybrid, but steps are English whatever the question's language

Measured on held-out contents: reading a number, sums, sums with exceptions, comparisons, and
whether a printed total is right, by mode and language, beside what a blank image earns.

On a laptop this tests the path: a model of this size and so few steps reads nothing, so that no
claim is made. `vision_hybrid_h100` asks the question.
"""

from experiments.vision_hybrid import settings, verdict
from kanana_jax.jobs import drawn_images, sweep

run = sweep.of(drawn_images.JOB, write_report=verdict.write)


def experiment() -> sweep.Sweep:
    return settings.comparison("vision_hybrid", settings.LAPTOP)
