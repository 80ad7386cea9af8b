"""When should a batch grow, at equal tokens? On a laptop.

The batch is small throughout, large from early or from late on, or large throughout. It grows
fourfold. Every arm runs at four peak rates, since larger batches take larger ones, and is judged
at its own best. A small batch takes four times the steps for the same tokens: the report has loss
against steps, and the verdict says what an arm pays in tokens and saves in steps.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from kanana_jax import config
from kanana_jax.jobs import curves, pretrain, sweep
from kanana_jax.model import presets
from kanana_jax.report import claims, comparison, pairs, results
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

SMALL, EARLY, LATE, LARGE = "small", "large early", "large late", "large"
_GROWTH = 4


def arms(tokens: int, seq_len: int, batch_size: int) -> tuple[sweep.Arm, ...]:
    """The arms; each says for which of `tokens` tokens the batch is the large one."""
    large = _GROWTH * batch_size
    unit = large * seq_len

    def arm(name: str, share_small: float) -> sweep.Arm:
        small_tokens = round(share_small * tokens / unit) * unit
        sizes = [(batch_size, small_tokens), (large, tokens - small_tokens)]
        stages = [
            f'{{"name": "batch{size}", "tokens": {part}, "batch_size": {size}}}'
            for size, part in sizes
            if part
        ]
        steps = sum(part // (size * seq_len) for size, part in sizes)
        decay = f"optimizer.schedule.decay_steps={_decay_steps(sizes, seq_len)}"
        warmup = f"optimizer.schedule.warmup_steps={max(1, steps // 30)}"
        return sweep.Arm(name=name, edits=(f"stages=[{', '.join(stages)}]", decay, warmup))

    return arm(SMALL, 1.0), arm(EARLY, 0.25), arm(LATE, 0.75), arm(LARGE, 0.0)


def _decay_steps(sizes: Sequence[tuple[int, int]], seq_len: int) -> int:
    """The steps of the last fifth of the tokens."""
    last_size = next(size for size, part in reversed(sizes) if part)
    return sum(part for _, part in sizes) // 5 // (last_size * seq_len)


def judge(runs: Sequence[Run]) -> tuple[str, list[Claim]]:
    """The headline and the claims, whatever came out."""
    best = {one.arm: one for one in pairs.best(runs)}
    if len(best) < 2 or SMALL not in best:
        return "These arms alone decide nothing.", []
    steps = {arm: results.select(runs, arm=arm)[0].steps for arm in best}

    def against(arm: str, other: str) -> tuple[str, pairs.Comparison]:
        words = f"{arm}, {steps[arm]} steps, against {other}, {steps[other]}"
        return words, pairs.compare_best(runs, best[arm], best[other])

    found = [claims.best_places(list(best.values()), "rate")]
    with_small = {arm: against(arm, SMALL) for arm in (LATE, EARLY, LARGE) if arm in best}
    for arm, one in with_small.items():
        question = f"Is {arm} as good as {SMALL} at equal tokens, each at its own best rate?"
        found.append(claims.compared(question, [one]))
    if LATE in best and EARLY in best:
        found.append(
            claims.better(
                f"Is {LATE} better than {EARLY} at equal tokens?", against(LATE, EARLY)[1]
            )
        )
    as_good = [arm for arm, (_, one) in with_small.items() if one.outcome in ("better", "equal")]
    if not as_good:
        return "No larger batch was shown to be as good as the small one.", found
    fewest = min(as_good, key=steps.__getitem__)
    saved = 1 - steps[fewest] / steps[SMALL]
    return f"{fewest.capitalize()} is as good as {SMALL} with {saved:.0%} fewer steps.", found


def write(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
    return comparison.write(runs, about, path, curves=curves.TRAINING, verdict=judge(runs))


run = sweep.of(pretrain.JOB, write_report=write)


def experiment() -> sweep.Sweep:
    seq_len, batch_size = 128, 4
    tokens = 480 * batch_size * seq_len
    base = pretrain.Config(
        name="batch_ramp",
        question="When should a batch grow?",
        model=dataclasses.replace(presets.tiny(), num_layers=3),
        # Micro-batches stay at the small size: large batches are accumulated.
        execution=dataclasses.replace(presets.LAPTOP, accumulation_steps=1),
        data=config.DataConfig(seq_len=seq_len, batch_size=batch_size),
        optimizer=config.OptimizerConfig(lr=0.015, polar_dtype="float32"),
        train=config.TrainConfig(
            eval_interval_steps=60, eval_batches=32, checkpoint_interval_steps=120
        ),
    )
    return sweep.Sweep(
        base=base,
        arms=arms(tokens, seq_len, batch_size),
        axes=(sweep.Axis("optimizer.lr", (0.00375, 0.0075, 0.015, 0.03)),),
        seeds=3,
    )
