"""The settings of the stages, which other experiments on the same world take too."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from experiments.rl_logic import jobs, world
from kanana_jax import config
from kanana_jax.jobs import answer_pairs, pretrain, rl
from kanana_jax.jobs.pipeline import Stage
from kanana_jax.jobs.sweep import Arm, Axis, Sweep
from kanana_jax.model import presets

SEQ_LEN, BATCH_SIZE = 128, 16
NUM_PROMPTS, NUM_ROUNDS = 16, 32
NUM_TRIES = NUM_PROMPTS * jobs.NUM_TRIES  # of a round
NUM_STORED = 16  # rows of stored text beside them
NUM_ROWS = NUM_TRIES + NUM_STORED
RATE = 0.003

_MODEL = dataclasses.replace(presets.tiny(), num_layers=2)
_STEPS, _ANSWERS = 600, 150  # steps of the two stages of a base


def base(name: str, further: Mapping[str, float] = MappingProxyType({})) -> Stage:
    """A model that has read the texts, towards the end mostly answers alone.

    `further` texts, by weight, come on top: it reads as much of the others as without them.
    """
    made_of, rest = (*world.TEXTS, *further), tuple(further.values())
    steps, answers = (round(count * (1 + sum(rest))) for count in (_STEPS, _ANSWERS))
    made = pretrain.Config(
        **_settings(name, "What can the base do?", steps + answers, 0.01, BATCH_SIZE),
        data=_data(BATCH_SIZE, (*world.MIXTURE, *rest), made_of),
        stages=(
            _part("steps", steps, (*world.FIRST_MIXTURE, *rest)),
            _part("answers", answers, (*world.MIXTURE, *rest)),
        ),
        # Steps are learned within a few updates, whose gradients look like a spike.
        guard=config.GuardConfig(num_sigmas=100.0),
    )
    return Stage(name, Sweep(base=made))


def _part(name: str, num_steps: int, weights: tuple[float, ...]) -> config.StageConfig:
    tokens = num_steps * BATCH_SIZE * SEQ_LEN
    return config.StageConfig(name=name, tokens=tokens, weights=weights)


def rewarded(
    name: str,
    arms: tuple[Arm, ...] = (),
    init_from: str = "base",
    num_rounds: int = NUM_ROUNDS,
    axes: tuple[Axis, ...] = (),
    families: tuple[str, ...] = (world.REWARDED,),
) -> Stage:
    """Rounds of tries, by default on problems as long as the base's longest or longer."""
    made = rl.Config(
        **_settings(name, "What does a reward teach?", num_rounds, RATE, NUM_ROWS, is_still=True),
        data=_data(NUM_ROWS),
        rl=config.RLConfig(
            rollouts=jobs.rollouts(*families, num_prompts=NUM_PROMPTS),
            stored_share=NUM_STORED / NUM_ROWS,
            stored_weight=0.3,
        ),
    )
    return Stage(name, Sweep(base=made, arms=arms, axes=axes), init_from=init_from)


def more(
    name: str,
    num_steps: int,
    init_from: str = "base",
    further: Mapping[str, float] = MappingProxyType({}),
) -> Stage:
    """More of the base's text, and `further` texts by weight."""
    paths, weights = (*world.TEXTS, *further), (*world.MIXTURE, *further.values())
    made = pretrain.Config(
        **_settings(name, "What do as many tokens of text?", num_steps, RATE, BATCH_SIZE),
        data=_data(BATCH_SIZE, weights, paths),
    )
    return Stage(name, Sweep(base=made), init_from=init_from)


def measured(name: str, merges: tuple[str, ...], density: float = 0.0) -> Stage:
    """The stages `merges`, which began at the base, merged and trained no further."""
    made = pretrain.Config(
        **_settings(name, "What is left of each in one model?", 0, RATE, BATCH_SIZE),
        data=_data(BATCH_SIZE),
    )
    return Stage(name, Sweep(base=made), init_from="base", merges=merges, density=density)


def _settings(
    name: str,
    question: str,
    num_steps: int,
    lr: float,
    batch_size: int,
    *,
    is_still: bool = False,
) -> dict[str, Any]:
    """With `is_still` nothing besides the loss moves the model."""
    beside = ("z_loss_weight", "balance_loss_weight", "router_bias_rate")
    still = {name: getattr(answer_pairs.STILL, name) for name in beside if is_still}
    return {
        "name": name,
        "question": question,
        "model": _MODEL,
        "execution": presets.LAPTOP,
        "optimizer": config.OptimizerConfig(
            lr=lr,
            polar_dtype="float32",
            schedule=config.ScheduleConfig(
                warmup_steps=num_steps // 50, decay_steps=num_steps // 3
            ),
        ),
        "train": config.TrainConfig(
            num_steps=num_steps,
            eval_interval_steps=max(num_steps, 1),
            eval_batches=NUM_ROWS // batch_size,
            diagnostics_interval_steps=max(num_steps, 1),
            checkpoint_interval_steps=max(num_steps // 4, 1),
            **still,
        ),
    }


def _data(
    batch_size: int, mixture: tuple[float, ...] = world.MIXTURE, paths=tuple(world.TEXTS)
) -> config.DataConfig:
    return config.DataConfig(
        paths=paths,
        weights=mixture,
        seq_len=SEQ_LEN,
        batch_size=batch_size,
        heldout_fraction=0.02,
    )
