"""The settings of the stages."""

import dataclasses
from typing import Any

from experiments.rl_logic import jobs, world
from kanana_jax import config
from kanana_jax.jobs import answer_pairs, pretrain, rl
from kanana_jax.jobs.pipeline import Stage
from kanana_jax.jobs.sweep import Arm, Sweep
from kanana_jax.model import presets

SEQ_LEN, BATCH_SIZE = 128, 16
NUM_PROMPTS, NUM_ROUNDS = 16, 24
NUM_TRIES = NUM_PROMPTS * jobs.NUM_TRIES  # of a round
NUM_STORED = 16  # rows of stored text beside them
NUM_HELDOUT = NUM_TRIES + NUM_STORED  # rows that measure the loss
MIXTURE = (0.05, 0.05, 0.55, 0.35)  # of `world.TEXTS`

GRPO, SQUARED, NO_TEXT = "grpo", "squared", "no stored text"
ARMS = (
    Arm(name=GRPO),
    Arm(name=SQUARED, edits=("rl.loss=squared",)),
    Arm(
        name=NO_TEXT,
        edits=(
            "rl.stored_share=0",
            f"rl.rollouts.num_prompts={(NUM_TRIES + NUM_STORED) // jobs.NUM_TRIES}",
        ),
    ),
)

_MODEL = dataclasses.replace(
    presets.tiny(),
    num_layers=2,
    hidden_size=64,
    kv_lora_rank=32,
    qk_nope_head_dim=16,
    v_head_dim=16,
    intermediate_size=192,
    moe_intermediate_size=48,
)


def stages(arms: tuple[Arm, ...] = ARMS) -> tuple[Stage, ...]:
    base = pretrain.Config(
        **_settings("base", "What can the base do?", 1000, 0.015, warmup_steps=10, decay_steps=300),
    )
    rows = NUM_TRIES + NUM_STORED
    learned = rl.Config(
        **_settings("rl", "What does a reward teach?", NUM_ROUNDS, 0.003, rows, answer_pairs.STILL),
        rl=config.RLConfig(
            rollouts=jobs.rollouts(world.LONGER, num_prompts=NUM_PROMPTS),
            stored_share=NUM_STORED / rows,
        ),
    )
    # As many tokens as the tries and the stored rows of all rounds.
    num_steps = NUM_ROUNDS * rows // BATCH_SIZE
    more = pretrain.Config(
        **_settings("more", "What do as many tokens of text?", num_steps, 0.003),
    )
    return (
        Stage("base", Sweep(base=base)),
        Stage("rl", Sweep(base=learned, arms=arms), init_from="base"),
        Stage("more", Sweep(base=more), init_from="base"),
    )


def _settings(
    name: str,
    question: str,
    num_steps: int,
    lr: float,
    batch_size: int = BATCH_SIZE,
    train: config.TrainConfig = config.TrainConfig(),  # noqa: B008
    **schedule: Any,
) -> dict[str, Any]:
    return {
        "name": name,
        "question": question,
        "model": _MODEL,
        "execution": presets.LAPTOP,
        "data": config.DataConfig(
            paths=tuple(world.TEXTS),
            weights=MIXTURE,
            seq_len=SEQ_LEN,
            batch_size=batch_size,
            heldout_fraction=0.02,
        ),
        "optimizer": config.OptimizerConfig(
            lr=lr, polar_dtype="float32", schedule=config.ScheduleConfig(**schedule)
        ),
        "train": dataclasses.replace(
            train,
            num_steps=num_steps,
            eval_interval_steps=num_steps,
            eval_batches=NUM_HELDOUT // batch_size,
            diagnostics_interval_steps=num_steps,
            checkpoint_interval_steps=max(num_steps // 4, 1),
        ),
    }
