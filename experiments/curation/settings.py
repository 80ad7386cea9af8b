"""The settings of the arms: equal tokens, which differ only in their English part."""

import dataclasses

from experiments.curation import corpora
from kanana_jax import config
from kanana_jax.jobs import pretrain, sweep
from kanana_jax.model import presets

# Shares of the tokens. Little of the Korean is sums, so that English ones could help.
ENGLISH, KOREAN, KOREAN_SUMS = 0.75, 0.2, 0.05
_NUM_STEPS = 400


def _arm(depth: str) -> sweep.Arm:
    return sweep.Arm(name=depth, edits=(f"data.weights={','.join(map(str, _weights(depth)))}",))


def _weights(depth: str) -> tuple[float, ...]:
    shares = {depth: ENGLISH, corpora.KOREAN: KOREAN, corpora.KOREAN_SUMS: KOREAN_SUMS}
    return tuple(shares.get(path, 0.0) for path in corpora.PATHS)


def experiment() -> sweep.Sweep:
    base = pretrain.Config(
        name="curation",
        question="What does each step of curation do at equal tokens, also to another language?",
        model=dataclasses.replace(presets.tiny(), num_layers=2),
        execution=presets.LAPTOP,
        data=config.DataConfig(
            paths=corpora.PATHS,
            seq_len=128,
            batch_size=8,
            heldout_fraction=0.15,
        ),
        optimizer=config.OptimizerConfig(
            lr=0.015,
            polar_dtype="float32",
            schedule=config.ScheduleConfig(warmup_steps=10, decay_steps=_NUM_STEPS // 3),
        ),
        train=config.TrainConfig(
            num_steps=_NUM_STEPS,
            eval_interval_steps=_NUM_STEPS,
            eval_batches=len(corpora.PATHS) * 16,
            checkpoint_interval_steps=_NUM_STEPS // 2,
        ),
    )
    return sweep.Sweep(base=base, arms=tuple(map(_arm, corpora.DEPTHS)), seeds=3)
