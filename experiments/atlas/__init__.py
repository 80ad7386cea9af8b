"""Does loss in many languages follow parameters and effective data? A path test for a laptop.

A small version of the grid of ATLAS (arXiv:2510.22037): four sizes of dense models and eight
mixtures of four texts, all at one state of the learning rate and read along the way. The text is
what every installation has: Korean and English from templates, docstrings, and Python in place of
all other languages. This tests the path from runs to a verdict. Its numbers say nothing about
languages; `atlas_h100` asks about real ones.
"""

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.atlas import verdict
from experiments.atlas.picture import LossOfTokens
from experiments.atlas.table import NUM_SOURCES
from kanana_jax import config, data
from kanana_jax.data import python_text, template_text
from kanana_jax.jobs import curves, job, pretrain, read_tokens, sweep
from kanana_jax.model import presets
from kanana_jax.report import comparison
from kanana_jax.report.results import Run

WIDTHS = (32, 48, 64, 96)
NUM_DOCUMENTS = {"ko": 150, "en": 1000}  # of 200 to 600 bytes; the target is read again and again


def _documents(language: template_text.Language) -> Iterator[bytes]:
    count = NUM_DOCUMENTS[language]
    return (one.encode() for one in template_text.documents(language, seed=0, count=count))


STREAMS = {
    "ko": functools.partial(_documents, "ko"),
    "en": functools.partial(_documents, "en"),
    "prose": python_text.read_prose,
    "code": python_text.read_code,
}
JOB = job.measuring(
    pretrain.JOB._replace(read=functools.partial(data.read_text, streams=STREAMS)),
    read_tokens.evaluator,
)


def mixtures(num_texts: int) -> dict[str, tuple[float, ...]]:
    """Shares of the target, of two sources and of the others, in the order of data.paths.

    Every text but the target has two shares or more, even without the last mixture, which the
    verdict holds out. This tells a weight from the form of the law.
    """
    count = num_texts - 1 - NUM_SOURCES

    def mixture(target: float, first: float, second: float, others: float) -> tuple[float, ...]:
        return (target, first, second, *(others / count,) * count)

    even = 1.0 / num_texts
    return {
        "target": mixture(1.0, 0.0, 0.0, 0.0),
        "half first": mixture(0.5, 0.5, 0.0, 0.0),
        "some first": mixture(0.8, 0.2, 0.0, 0.0),
        "half second": mixture(0.5, 0.0, 0.5, 0.0),
        "some second": mixture(0.8, 0.0, 0.2, 0.0),
        "half others": mixture(0.5, 0.0, 0.0, 0.5),
        "some others": mixture(0.8, 0.0, 0.0, 0.2),
        verdict.HELD_MIX: mixture(even, even, even, even * count),
    }


def write(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
    pictures = (LossOfTokens(), *curves.TRAINING)
    return comparison.write(runs, about, path, curves=pictures, verdict=verdict.judge(runs))


run = sweep.of(JOB, write_report=write)


def shape(width: int, num_layers: int = 2, head_dim: int = 16) -> config.ModelConfig:
    """A dense model."""
    return config.ModelConfig(
        vocab_size=0,
        hidden_size=width,
        num_layers=num_layers,
        num_dense_layers=num_layers,
        num_heads=width // head_dim,
        num_kv_heads=width // head_dim,
        q_lora_rank=None,
        kv_lora_rank=None,
        qk_nope_head_dim=0,
        qk_rope_head_dim=head_dim,
        v_head_dim=head_dim,
        intermediate_size=3 * width,
    )


def arms(shapes: Sequence[config.ModelConfig], num_texts: int) -> tuple[sweep.Arm, ...]:
    """Every mixture at every size."""
    made = []
    for name, weights in mixtures(num_texts).items():
        for one in shapes:
            edits = [f"data.weights={','.join(f'{share:.6g}' for share in weights)}"]
            edits += [
                f"model.{field}={getattr(one, field)}"
                for field in ("hidden_size", "num_heads", "num_kv_heads", "intermediate_size")
            ]
            made.append(sweep.Arm(name=f"{name}, width {one.hidden_size}", edits=tuple(edits)))
    return tuple(made)


def experiment() -> sweep.Sweep:
    seq_len, batch_size, num_steps = 128, 8, 300
    every = num_steps // 10
    shapes = [shape(width) for width in WIDTHS]
    base = pretrain.Config(
        name="atlas",
        question="Does loss in many languages follow parameters and effective data?",
        model=shapes[0],
        execution=presets.LAPTOP,
        data=config.DataConfig(
            paths=tuple(STREAMS),
            weights=(1.0, 0.0, 0.0, 0.0),
            seq_len=seq_len,
            batch_size=batch_size,
            heldout_fraction=0.1,
        ),
        optimizer=config.OptimizerConfig(
            lr=0.01,
            polar_dtype="float32",
            schedule=config.ScheduleConfig(name="constant", warmup_steps=10),
        ),
        train=config.TrainConfig(
            num_steps=num_steps,
            eval_interval_steps=every,
            eval_batches=8,
            diagnostics_interval_steps=num_steps,
            checkpoint_interval_steps=num_steps,
            average=config.AverageConfig(every_tokens=every // 5 * seq_len * batch_size),
        ),
    )
    return sweep.Sweep(base=base, arms=arms(shapes, len(STREAMS)), seeds=3)
