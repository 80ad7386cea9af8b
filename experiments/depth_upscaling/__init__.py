"""Does a model grown from a trained one save FLOPs against one from scratch? On a laptop.

A parent of four layers learns the text that every Python carries. Models of six layers are made of
it and trained on: two copies that overlap (SOLAR), copies of two layers behind their originals, and
the same with copies that add nothing yet. Six layers from scratch have as many FLOPs as parent and
growth together, or half and 1.5 times as many, from which follows what the loss of a grown model
would have cost from scratch. The control is the parent itself, trained on for as many FLOPs.

The parent's rate does not fall; that of all others does, over equally many tokens at their end.
Kanana-1 (arXiv:2502.18934) reports 11.06 % saved.
"""

import dataclasses
import functools

from experiments.depth_upscaling import report
from experiments.depth_upscaling.verdict import GROWTHS, ON, PARENT, SCRATCH, SHARES, start_of
from kanana_jax import config
from kanana_jax.jobs import pipeline, pretrain, sweep
from kanana_jax.model import presets
from kanana_jax.plan import flops

_PARENT_STEPS, _GROWN_STEPS, _DECAY_STEPS = 400, 150, 60
_SEQ_LEN, _BATCH_SIZE = 128, 8
_PARENT = presets.tiny(vocab_size=258)
_GROWN = dataclasses.replace(_PARENT, num_layers=6)

_STAGES = (PARENT, *map(start_of, GROWTHS), *GROWTHS, ON, SCRATCH)
run = pipeline.of(dict.fromkeys(_STAGES, sweep.of(pretrain.JOB)), write_report=report.write)


def _training(
    name: str, question: str, num_steps: int, *, shape=_PARENT, decay_steps=0
) -> pretrain.Config:
    return pretrain.Config(
        name=name,
        question=question,
        model=shape,
        execution=presets.LAPTOP,
        data=config.DataConfig(seq_len=_SEQ_LEN, batch_size=_BATCH_SIZE),
        optimizer=config.OptimizerConfig(
            lr=0.015,
            polar_dtype="float32",
            schedule=config.ScheduleConfig(
                warmup_steps=10 if num_steps else 0, decay_steps=decay_steps
            ),
        ),
        train=config.TrainConfig(
            num_steps=num_steps,
            eval_interval_steps=max(num_steps // 10, 1),
            eval_batches=16,
            checkpoint_interval_steps=max(num_steps // 2, 1),
        ),
    )


def experiment() -> pipeline.Pipeline:
    parent, grown = (flops.of_model(one, _BATCH_SIZE, _SEQ_LEN) for one in (_PARENT, _GROWN))
    after = functools.partial(_training, decay_steps=_DECAY_STEPS)
    stages = [_seeds(PARENT, _training(PARENT, "What does the parent know?", _PARENT_STEPS))]
    for name, change in GROWTHS.items():
        made = _training(start_of(name), "What is lost at once?", 0, shape=_GROWN)
        surgery = config.SurgeryConfig(grow=(change,))
        stages.append(_seeds(start_of(name), made, init_from=PARENT, surgery=surgery))
        more = after(name, "When is it regained?", _GROWN_STEPS, shape=_GROWN)
        stages.append(_seeds(name, more, init_from=start_of(name)))
    going_on = round(_GROWN_STEPS * grown / parent)
    control = after(ON, "What would the parent have learned?", going_on)
    stages.append(_seeds(ON, control, init_from=PARENT))
    whole = _GROWN_STEPS + _PARENT_STEPS * parent / grown
    scratch = after(SCRATCH, "What do six layers cost from scratch?", round(whole), shape=_GROWN)
    arms = tuple(
        sweep.Arm(name=name, edits=(f"train.num_steps={round(share * whole)}",))
        for name, share in SHARES.items()
    )
    stages.append(pipeline.Stage(SCRATCH, sweep.Sweep(base=scratch, arms=arms, seeds=3)))
    return pipeline.Pipeline(
        name="depth_upscaling",
        question="Does a model grown from a trained one save FLOPs against one from scratch?",
        stages=tuple(stages),
    )


def _seeds(name: str, cfg: pretrain.Config, **places) -> pipeline.Stage:
    return pipeline.Stage(name, sweep.Sweep(base=cfg, seeds=3), **places)
