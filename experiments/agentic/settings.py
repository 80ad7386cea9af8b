"""The settings of the stages."""

import dataclasses
from typing import Any

from experiments.agentic import jobs
from kanana_jax import config
from kanana_jax.jobs import pretrain, sft
from kanana_jax.jobs.pipeline import Pipeline, Stage
from kanana_jax.jobs.sweep import Arm, Sweep
from kanana_jax.model import presets

_SEQ_LEN, _BATCH_SIZE = 512, 4
_SFT_SEQ_LEN = 400  # the longest conversation has 352 tokens
_BASE_STEPS, _SFT_STEPS = 100, 600
_VOCAB_SIZE = 1024  # of BPE: calls copy names, which take few of its tokens


def experiment() -> Pipeline:
    base = pretrain.Config(
        **_settings("base", "What can an agent do that has read prose alone?", _BASE_STEPS, 0.015),
        data=_data("prose", _SEQ_LEN),
    )
    tuned = sft.Config(
        **_settings("sft", "What does it do after conversations?", _SFT_STEPS, 0.008),
        data=_data(jobs.KEPT, _SFT_SEQ_LEN),
    )
    arms = tuple(
        Arm(name=one, edits=(f"data.paths={one}",)) for one in (jobs.KEPT, jobs.UNFILTERED)
    )
    return Pipeline(
        name="agentic",
        question="What does a tiny agent learn of synthesised conversations?",
        stages=(
            Stage("base", Sweep(base=base, seeds=3)),
            Stage("sft", Sweep(base=tuned, arms=arms, seeds=3), init_from="base"),
        ),
    )


def _data(path: str, seq_len: int) -> config.DataConfig:
    return config.DataConfig(
        paths=(path,),
        tokenizer="bpe",
        bpe_vocab_size=_VOCAB_SIZE,
        seq_len=seq_len,
        batch_size=_BATCH_SIZE,
        heldout_fraction=0.05,
    )


def _settings(name: str, question: str, num_steps: int, lr: float) -> dict[str, Any]:
    return {
        "name": name,
        "question": question,
        "model": dataclasses.replace(presets.tiny(), num_layers=2),
        "execution": presets.LAPTOP,
        "optimizer": config.OptimizerConfig(
            lr=lr,
            polar_dtype="float32",
            schedule=config.ScheduleConfig(warmup_steps=10, decay_steps=num_steps // 2),
        ),
        "train": config.TrainConfig(
            num_steps=num_steps,
            eval_interval_steps=num_steps,
            eval_batches=2,
            diagnostics_interval_steps=num_steps,
            checkpoint_interval_steps=num_steps // 2,
        ),
        # Calls are learned within a few updates, whose gradients look like a spike.
        "guard": config.GuardConfig(num_sigmas=100.0),
    }
