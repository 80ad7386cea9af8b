"""The settings of the arms: equal tokens of text, then questions beside some more of the text.

read    a text of each person as often as there are rewrites, less what the next stage reads
ask     questions and the arm's text, half each, at a falling rate
"""

import dataclasses
from collections.abc import Sequence

from experiments.rephrase import world
from kanana_jax import config
from kanana_jax.jobs import pretrain, sweep
from kanana_jax.model import presets

RAW = f"raw x {world.NUM_REWRITES}"
ONE, MANY = f"1 rewrite x {world.NUM_REWRITES}", f"{world.NUM_REWRITES} rewrites x 1"
ARMS = RAW, ONE, MANY
TEXTS = "raw", "one", "many"  # that they read
QUESTIONS = "questions"

_SEQ_LEN, _BATCH_SIZE = 128, 4
# 200 people with 42 tokens a rewrite, 30 times, are 490 steps of text; 50 of these are in "ask".
_READ_STEPS, _ASK_STEPS = 440, 100


def _arm(name: str, text: str) -> sweep.Arm:
    return sweep.Arm(
        name=name,
        edits=(
            f"data.weights={_weights({text: 1.0})}",
            f"stages.read.weights={_weights({text: 1.0})}",
            f"stages.ask.weights={_weights({text: 0.5, QUESTIONS: 0.5})}",
        ),
    )


def _weights(shares: dict[str, float]) -> str:
    return ",".join(f"{shares.get(name, 0.0):g}" for name in world.TEXTS)


def _stage(name: str, num_steps: int, lr_begin: float, lr_end: float) -> config.StageConfig:
    tokens = num_steps * _SEQ_LEN * _BATCH_SIZE
    return config.StageConfig(name=name, tokens=tokens, lr_begin=lr_begin, lr_end=lr_end)


def experiment(name: str = "rephrase", arms: Sequence[str] = ARMS) -> sweep.Sweep:
    """`arms` are the names of the arms with the raw text, one rewrite and many."""
    num_steps = _READ_STEPS + _ASK_STEPS
    base = pretrain.Config(
        name=name,
        question="Do rewrites of a text, each read once, teach more than a text read again?",
        model=dataclasses.replace(presets.tiny(), num_layers=2),
        execution=presets.LAPTOP,
        data=config.DataConfig(
            paths=tuple(world.TEXTS),
            tokenizer="bpe",
            bpe_vocab_size=768,
            seq_len=_SEQ_LEN,
            batch_size=_BATCH_SIZE,
            # A single document of every source: questions are held out, not texts.
            heldout_fraction=1e-9,
        ),
        optimizer=config.OptimizerConfig(
            lr=0.01,
            polar_dtype="float32",
            schedule=config.ScheduleConfig(name="constant", warmup_steps=10),
        ),
        stages=(_stage("read", _READ_STEPS, 1.0, 0.5), _stage("ask", _ASK_STEPS, 0.5, 0.0)),
        train=config.TrainConfig(
            eval_interval_steps=num_steps,
            eval_batches=1,
            diagnostics_interval_steps=num_steps,
            checkpoint_interval_steps=num_steps // 2,
        ),
        # Facts are learned within a few updates, whose gradients look like a spike.
        guard=config.GuardConfig(num_sigmas=100.0),
    )
    return sweep.Sweep(base=base, arms=tuple(map(_arm, arms, TEXTS)), seeds=3)
