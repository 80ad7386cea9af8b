"""Does a model grown from a trained one save FLOPs against one from scratch? On a laptop.

A parent of four layers learns the text that every Python carries. Models of six layers are made
from it and trained on: two copies that overlap (SOLAR), copies of two layers after their originals,
and the same with copies that add nothing yet. Six layers from scratch have as many FLOPs as parent
and growth together, half as many, or 1.5 times as many. From these follows what the loss of a grown
model would have cost from scratch. The control is the parent itself, trained on for as many FLOPs.

The parent's rate does not fall; the rate of all others does, over equally many tokens at their end.
Kanana-1 (arXiv:2502.18934) reports 11.06 % saved.
"""

from experiments.depth_upscaling import report, settings
from experiments.depth_upscaling.verdict import GROWTHS, ON, PARENT, SCRATCH, start_of
from kanana_jax import config
from kanana_jax.jobs import pipeline, pretrain, sweep
from kanana_jax.model import presets

_STAGES = (PARENT, *map(start_of, GROWTHS), *GROWTHS, ON, SCRATCH)
run = pipeline.of(dict.fromkeys(_STAGES, sweep.of(pretrain.JOB)), write_report=report.write)


def experiment() -> pipeline.Pipeline:
    laptop = settings.Size(
        parent=presets.tiny(vocab_size=258),
        num_layers=6,
        execution=presets.LAPTOP,
        data=config.DataConfig(seq_len=128, batch_size=8),
        lr=0.015,
        polar_dtype="float32",
        warmup_steps=10,
        parent_steps=400,
        grown_steps=150,
        decay_steps=60,
    )
    return settings.compared("depth_upscaling", laptop)
