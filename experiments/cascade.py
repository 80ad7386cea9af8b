"""Is a model cut in two steps better than one cut in one? On a laptop.

    base, 8 layers -> half, 4 layers -> cascade, 2 layers     taught by the model that was cut
                                     -> by_base               the same, taught by the base
                   -> once, 2 layers                          taught by the base, as many tokens

Each cut is followed by distillation, as for Kanana Nano (arXiv:2502.18934). Controls have two
layers from the first step on: `new` has the base as its teacher for as many tokens as the students
have, and `scratch` reads as much text as the base and a student together.
"""

import dataclasses
from collections.abc import Sequence

from experiments.prune_distill import settings
from kanana_jax.jobs import pipeline
from kanana_jax.model import presets
from kanana_jax.report import claims, pairs, results, stages
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

BASE, HALF, CASCADE, BY_BASE, ONCE = "base", "half", "cascade", "by_base", "once"
NEW, SCRATCH = "new", "scratch"
_BASE_STEPS, _TAUGHT_STEPS = 400, 120


def cut_for(name: str) -> str:
    """The stage that measures what a student starts from."""
    return f"{name}_start"


def judge(runs: Sequence[Run]) -> list[Claim]:
    """The claims, whatever came out."""

    def lower(one: str, other: str, words: str) -> Claim:
        found = pairs.compare(results.select(runs, arm=one), results.select(runs, arm=other))
        return claims.better(f"Is held-out loss lower {words}?", found)

    return [
        lower(CASCADE, ONCE, "after two cuts than after one, at equal tokens"),
        lower(BY_BASE, ONCE, "after two cuts than after one, with the base as the only teacher"),
        lower(CASCADE, BY_BASE, "with the model that was cut as the teacher than with the base"),
        lower(CASCADE, SCRATCH, "after two cuts than from scratch with the base's tokens too"),
        lower(ONCE, SCRATCH, "after one cut than from scratch with the base's tokens too"),
        lower(ONCE, NEW, "after one cut than of a new model with the same teacher"),
    ]


run = pipeline.of(
    dict.fromkeys((BASE, *map(cut_for, (HALF, CASCADE, ONCE)), SCRATCH), settings.PRETRAIN)
    | dict.fromkeys((HALF, CASCADE, BY_BASE, ONCE, NEW), settings.DISTILL),
    write_report=stages.judged(judge, ("heldout_bpb",)),
)


def experiment() -> pipeline.Pipeline:
    eight, four, two = (
        dataclasses.replace(presets.tiny(), num_layers=num_layers, num_dense_layers=0)
        for num_layers in (8, 4, 2)
    )
    part, whole, training = _TAUGHT_STEPS // 2, _TAUGHT_STEPS, settings.LAPTOP
    text = "What does as much text do?"
    return pipeline.Pipeline(
        name="cascade",
        question="Is a model cut in two steps better than one cut in one?",
        stages=(
            training.reading(BASE, "What does the base know?", eight, _BASE_STEPS),
            training.cut(cut_for(HALF), BASE, eight, ["num_layers=4"]),
            training.taught(HALF, four, BASE, part, init_from=cut_for(HALF)),
            training.cut(cut_for(CASCADE), HALF, four, ["num_layers=2"]),
            training.taught(CASCADE, two, HALF, part, init_from=cut_for(CASCADE)),
            training.taught(BY_BASE, two, BASE, part, init_from=cut_for(CASCADE)),
            training.cut(cut_for(ONCE), BASE, eight, ["num_layers=2"]),
            training.taught(ONCE, two, BASE, whole, init_from=cut_for(ONCE)),
            training.taught(NEW, two, BASE, whole),
            training.reading(SCRATCH, text, two, _BASE_STEPS + _TAUGHT_STEPS),
        ),
    )
