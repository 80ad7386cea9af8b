"""What does a teacher's distribution teach a small student that text does not? On a laptop.

A teacher learns the text that every Python carries. Students of one dense layer then read equally
many tokens. They learn from the text alone, from the teacher's whole distribution at every
position, from both, or from a few numbers of it that were found beforehand: its likeliest tokens
with a bucket of all others, or draws. The measure is bits per byte of held-out text.

The students read the text that the teacher has read, in another order.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from kanana_jax import config
from kanana_jax.jobs import distillation, pipeline, pretrain, sweep
from kanana_jax.model import presets
from kanana_jax.report import claims, pairs, results, stages
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

TEACHER, STUDENT = "base", "student"  # stages
TEXT, WHOLE, BOTH = "text", "whole distribution", "text and distribution"
TOP_K, SAMPLED = "8 likeliest tokens", "8 draws"
NUM_KEPT = 8

ARMS = (
    sweep.Arm(name=TEXT, edits=("distill.ce_weight=1", "distill.weight=0")),
    sweep.Arm(name=WHOLE, edits=()),
    sweep.Arm(name=BOTH, edits=("distill.ce_weight=0.5", "distill.weight=0.5")),
    sweep.Arm(name=TOP_K, edits=("distill.divergence=top_k", "distill.outputs=cached")),
    sweep.Arm(name=SAMPLED, edits=("distill.divergence=sampled", "distill.outputs=cached")),
)


def judge(runs: Sequence[Run]) -> tuple[str, list[Claim]]:
    """The headline and the claims, whatever came out."""
    of_arm = {arm.name: results.select(runs, arm=f"{STUDENT}: {arm.name}") for arm in ARMS}
    taught = claims.better(
        "Does a student of the teacher's distribution predict held-out text better than one of "
        "the text?",
        pairs.compare(of_arm[WHOLE], of_arm[TEXT]),
    )
    others = [
        claims.compared(
            f"Is {name} as good as the {WHOLE}?",
            [("", pairs.compare(of_arm[name], of_arm[WHOLE]))],
        )
        for name in (BOTH, TOP_K, SAMPLED)
    ]
    words = {
        True: "A teacher's distribution teaches more than as many tokens of text.",
        False: "A teacher's distribution teaches no more than as many tokens of text.",
        None: "These runs do not tell whether a teacher's distribution teaches more than text.",
    }
    return words[taught.holds], [taught, *others]


def write(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
    headline, found = judge(runs)
    return stages.write(runs, about, path, headline=headline, claims_found=found)


run = pipeline.of({TEACHER: pretrain.run, STUDENT: sweep.of(distillation.JOB)}, write_report=write)


def experiment() -> pipeline.Pipeline:
    def blocks(num_steps: int, seed: int = 0) -> dict[str, Any]:
        return {
            "execution": presets.LAPTOP,
            "data": config.DataConfig(seq_len=128, batch_size=8, seed=seed),
            "optimizer": config.OptimizerConfig(
                lr=0.015,
                polar_dtype="float32",
                schedule=config.ScheduleConfig(warmup_steps=10, decay_steps=num_steps // 2),
            ),
            "train": config.TrainConfig(
                num_steps=num_steps,
                z_loss_weight=0.0,
                eval_interval_steps=num_steps // 3,
                eval_batches=16,
                checkpoint_interval_steps=num_steps // 2,
            ),
        }

    teacher = pretrain.Config(
        name=TEACHER,
        question="How well does the teacher predict the text?",
        model=dataclasses.replace(presets.tiny(), num_layers=3),
        **blocks(num_steps=450, seed=100),
    )
    student = distillation.Config(
        name=STUDENT,
        question="From whom is most learned at equal tokens?",
        model=dataclasses.replace(presets.tiny(), num_layers=1, num_dense_layers=1),
        distill=config.DistillConfig(num_tokens=NUM_KEPT),
        **blocks(num_steps=120),
    )
    return pipeline.Pipeline(
        name="distill_small",
        question="What does a teacher's distribution teach that text does not?",
        stages=(
            pipeline.Stage(TEACHER, teacher),
            pipeline.Stage(
                STUDENT,
                sweep.Sweep(base=student, arms=ARMS, seeds=3),
                uses=(("distill.teacher", TEACHER),),
            ),
        ),
    )
