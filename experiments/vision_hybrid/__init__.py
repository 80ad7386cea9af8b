"""Does reasoning over an image, in a model that also answers directly, pay for its tokens?

Receipts, tables, forms and charts in English and Korean are drawn while models train on questions
about them. The arms see equally many rows and positions:

    hybrid          answers directly, or with steps, or twice, as the system message says
    direct          answers directly only
    English steps   as hybrid, but steps are English whatever the question's language

On held-out contents, the measures are reading a number, sums, sums with exceptions, comparisons,
and whether a printed total is right, by mode and language, next to what a blank image earns.

On a laptop this tests the path: a model of this size reads nothing after so few steps, so no claim
is made. `vision_hybrid_h100` asks the question.
"""

from experiments.vision_hybrid import settings, verdict
from kanana_jax.jobs import drawn_images, sweep

run = sweep.of(drawn_images.JOB, write_report=verdict.write)


def experiment() -> sweep.Sweep:
    return settings.comparison("vision_hybrid", settings.LAPTOP)
