"""What does a cut lose, and what does a teacher win back? On a laptop.

A base learns the text that every Python carries. One thing at a time is cut from it, and the result
is measured: a quarter of its layers, widths, heads or latent ranks, or half of its experts by three
scores. Then all widths are cut at once, and the base teaches what is left for a tenth of its own
tokens, with the text alone, the base's distribution, both, its likeliest tokens, or draws.

The controls have the shape of the cut model. One reads as much text from scratch as the base did;
the other is new, with the same teacher for as many tokens as the cut model. Kanana-1
(arXiv:2502.18934) reports that 0.3T tokens of pruning and distillation beat 3T from scratch.
"""

import dataclasses

from experiments import distill_small
from experiments.prune_distill import report, settings
from experiments.prune_distill.verdict import BASE, CUT, CUTS, NEW, SCRATCH, STUDENT, cut_of
from kanana_jax import config
from kanana_jax.jobs import pipeline
from kanana_jax.model import presets

_SHAPE = dataclasses.replace(presets.tiny(), q_lora_rank=64, num_shared_experts=2)
_LEFT = {
    "hidden_size": 96,
    "num_heads": 3,
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
}

run = pipeline.of(
    dict.fromkeys((BASE, *map(cut_of, CUTS), CUT, SCRATCH), settings.PRETRAIN)
    | dict.fromkeys((STUDENT, NEW), settings.DISTILL),
    write_report=report.write,
)


def compared(
    name: str,
    training: settings.Training,
    shape: config.ModelConfig,
    left: dict[str, int],
    *,
    base_steps: int,
    taught_steps: int,
) -> pipeline.Pipeline:
    """The stages for a base of `shape`; `left` has the sizes after all widths are cut together."""
    small = dataclasses.replace(shape, **left)
    changes = [f"{field}={size}" for field, size in left.items()]
    cuts = {
        cut: (f"{field}={round(part * getattr(shape, field))}", score)
        for cut, (field, part, score) in CUTS.items()
    }
    text = "What does ten times the text do?"
    return pipeline.Pipeline(
        name=name,
        question="What does a cut lose, and what does a teacher win back?",
        stages=(
            training.reading(BASE, "What does the base know?", shape, base_steps),
            *(
                training.cut(cut_of(cut), BASE, shape, [change], score)
                for cut, (change, score) in cuts.items()
            ),
            training.cut(CUT, BASE, shape, changes),
            training.taught(
                STUDENT, small, BASE, taught_steps, init_from=CUT, arms=distill_small.ARMS
            ),
            training.taught(NEW, small, BASE, taught_steps),
            training.reading(SCRATCH, text, small, 10 * taught_steps),
        ),
    )


def experiment() -> pipeline.Pipeline:
    sizes = {"base_steps": 800, "taught_steps": 80}
    return compared("prune_distill", settings.LAPTOP, _SHAPE, _LEFT, **sizes)
