"""Does the best text do more at the end of training than spread over all of it? On a laptop.

Three arms read equally much of each source, in different orders. Python modules without their
docstrings are the broad text; docstrings and the language reference are the best. A fifth of all
tokens is of the best text. It comes evenly, mostly in the last fifth of training, or mostly in the
first.

`--set=data.paths=broad.jsonl,best.jsonl` takes your own texts.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from kanana_jax import config, data
from kanana_jax.data import python_text
from kanana_jax.jobs import curves, heldout, pretrain, sweep
from kanana_jax.model import presets
from kanana_jax.report import claims, comparison, pairs, results, stages
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

EVEN, LATE, EARLY = "one mixture", "best late", "best early"
_MOSTLY_BROAD, _MOSTLY_BEST = "0.95,0.05", "0.2,0.8"  # a fifth in all, as 4 x 0.05 + 0.8 is 1

STREAMS = {"code": python_text.read_code, "prose": python_text.read_prose}
JOB = pretrain.JOB._replace(read=functools.partial(data.read_text, streams=STREAMS))


def arms(tokens: int) -> tuple[sweep.Arm, ...]:
    """The three orders of `tokens` tokens."""
    fifth = tokens // 5

    def arm(name: str, first: str, last: str, last_tokens: int) -> sweep.Arm:
        edits = (
            f"stages.first.tokens={tokens - last_tokens}",
            f"stages.last.tokens={last_tokens}",
            f"stages.first.weights={first}",
            f"stages.last.weights={last}",
        )
        return sweep.Arm(name=name, edits=edits)

    return (
        arm(EVEN, "0.8,0.2", "0.8,0.2", fifth),
        arm(LATE, _MOSTLY_BROAD, _MOSTLY_BEST, fifth),
        arm(EARLY, _MOSTLY_BEST, _MOSTLY_BROAD, tokens - fifth),
    )


def judge(runs: Sequence[Run]) -> tuple[str, list[Claim]]:
    """The headline and the claims, whatever came out."""
    by_arm = {arm: results.select(runs, arm=arm) for arm in results.arms(runs)}
    if EVEN not in by_arm or len(by_arm) < 2:
        return "One order alone decides nothing.", []
    broad, best = heldout.labels(runs[0].config["data"]["paths"])

    def against(arm: str, other: str, source: str):
        return pairs.compare(by_arm.get(arm, []), by_arm.get(other, []), source)

    late = against(LATE, EVEN, best)
    found = [
        claims.better(f"Is loss on {best} lower where it comes late than evenly mixed?", late),
        claims.better(
            f"Is loss on {best} lower where it comes late than early?", against(LATE, EARLY, best)
        ),
        claims.compared(
            f"Is loss on {broad} as good with {best} late as evenly mixed?",
            [("", against(LATE, EVEN, broad))],
        ),
    ]
    words = {
        "better": f"{best.capitalize()} read late is learned better than mixed evenly.",
        "worse": f"{best.capitalize()} read late is learned worse than mixed evenly.",
        "equal": f"When {best} is read makes no difference that matters.",
    }
    return words.get(late.outcome, "These runs do not tell whether the order matters."), found


def write(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
    pictures = (stages.Gains(title="What each order gained and lost"), *curves.TRAINING)
    return comparison.write(runs, about, path, curves=pictures, verdict=judge(runs))


run = sweep.of(JOB, write_report=write)


def experiment() -> sweep.Sweep:
    return compared(dataclasses.replace(presets.tiny(), num_layers=3), 128, 8, 300)


def compared(
    model: config.ModelConfig, seq_len: int, batch_size: int, num_steps: int
) -> sweep.Sweep:
    """The comparison for a given model."""
    tokens = num_steps * batch_size * seq_len
    base = pretrain.Config(
        name="staged_pretraining",
        question="Does the best text do more at the end of training than spread over all of it?",
        model=model,
        execution=presets.LAPTOP,
        data=config.DataConfig(paths=tuple(STREAMS), seq_len=seq_len, batch_size=batch_size),
        optimizer=config.OptimizerConfig(
            lr=0.015,
            polar_dtype="float32",
            schedule=config.ScheduleConfig(warmup_steps=10, decay_steps=num_steps // 5),
        ),
        train=config.TrainConfig(
            eval_interval_steps=60, eval_batches=24, checkpoint_interval_steps=100
        ),
        stages=(
            config.StageConfig(name="first", tokens=tokens - tokens // 5),
            config.StageConfig(name="last", tokens=tokens // 5),
        ),
        max_epochs=4.0,
    )
    return sweep.Sweep(base=base, arms=arms(tokens), seeds=3)
