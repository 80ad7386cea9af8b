"""Does an average of the weights at a constant rate do what a decay of the rate does? On a laptop.

Two arms train on the same tokens: one decays its learning rate over the last fifth, the other keeps
it constant and averages its weights on the way (arXiv:2608.20061, sec. 2.2). The average is
compared with the decayed weights, and with the newest weights at the constant rate.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kanana_jax import config
from kanana_jax.jobs import curves, pretrain, sweep
from kanana_jax.model import presets
from kanana_jax.report import claims, comparison, pairs, results, statistics
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

DECAYED, CONSTANT = "decayed rate", "constant rate, averaged"
RAW, AVERAGE = "heldout_bpb", "heldout_bpb_average"
_NUM_INTERVALS = 30  # in a run


def judge(runs: Sequence[Run]) -> tuple[str, list[Claim]]:
    """The headline and the claims, whatever came out."""
    decayed, constant = (results.select(runs, arm=arm) for arm in (DECAYED, CONSTANT))
    average, newest = _by_seed(constant, AVERAGE), _by_seed(constant, RAW)
    against_decay = claims.compared(
        "Is the average at a constant rate as good as weights after a decay, at equal tokens?",
        [("", _compare(average, _by_seed(decayed, RAW)))],
    )
    against_raw = claims.better(
        "Is the average better than the newest weights at a constant rate?",
        _compare(average, newest),
    )
    words = {
        True: "The average of weights at a constant rate is as good as a decay of the rate.",
        False: "The average of weights at a constant rate does not reach a decay of the rate.",
        None: "These runs do not tell whether an average replaces a decay.",
    }
    return words[against_decay.holds], [against_decay, against_raw]


def _by_seed(runs: Sequence[Run], key: str) -> dict[int, float]:
    return {run.seed: run.value(key) for run in runs if not run.diverged}


def _compare(one: Mapping[int, float], other: Mapping[int, float]) -> pairs.Comparison:
    """By the seeds that both have; an average keeps no losses of single sequences."""
    seeds = sorted(one.keys() & other.keys())
    if len(seeds) < 2:
        return pairs.Comparison("not measured", ("fewer than two seeds in common",))
    one_K, other_K = (np.array([by_seed[seed] for seed in seeds]) for by_seed in (one, other))
    found = statistics.difference_of_seeds(one_K, other_K)
    return pairs.Comparison(
        found.outcome(pairs.MARGIN_BPB), (pairs.described(found),), found.num_seeds
    )


def write(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
    return comparison.write(runs, about, path, curves=curves.TRAINING, verdict=judge(runs))


run = sweep.of(pretrain.JOB, write_report=write)


def experiment() -> sweep.Sweep:
    seq_len, batch_size, num_steps = 128, 8, 300
    every_tokens = num_steps * batch_size * seq_len // _NUM_INTERVALS
    base = pretrain.Config(
        name="weight_average",
        question="Does an average of the weights at a constant rate do what a decay does?",
        model=dataclasses.replace(presets.tiny(), num_layers=3),
        execution=presets.LAPTOP,
        data=config.DataConfig(seq_len=seq_len, batch_size=batch_size),
        optimizer=config.OptimizerConfig(
            lr=0.015,
            polar_dtype="float32",
            schedule=config.ScheduleConfig(name="constant", warmup_steps=10),
        ),
        train=config.TrainConfig(
            num_steps=num_steps,
            eval_interval_steps=30,
            eval_batches=16,
            checkpoint_interval_steps=150,
        ),
    )
    arms = (
        sweep.Arm(
            name=DECAYED,
            edits=(
                "optimizer.schedule.name=wsd",
                f"optimizer.schedule.decay_steps={num_steps // 5}",
            ),
        ),
        sweep.Arm(name=CONSTANT, edits=(f"train.average.every_tokens={every_tokens}",)),
    )
    return sweep.Sweep(base=base, arms=arms, seeds=3)
