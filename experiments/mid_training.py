"""What does replay keep while a base learns to reason? On a laptop.

A base learns text in two languages: English prose that every Python carries, and Korean template
text, a stand-in where no real text is at hand. Mid-training then teaches it sums with their steps
written out, in both languages, with 0, 20 or 50 % of the base's text mixed in. Measured are bits
per byte of each text, before and after, and the share of held-out problems that are solved.

`--set=base.data.paths=en.jsonl,ko.jsonl,traces` and the same for `mid` take texts of your own.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from kanana_jax import config, data
from kanana_jax.data import python_text, template_text
from kanana_jax.jobs import pipeline, pretrain, solving, sweep, training
from kanana_jax.model import presets
from kanana_jax.report import claims, pairs, results, stages, statistics
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run
from kanana_jax.rollouts import tasks

BASE, MID = "base", "mid"
SHARES = (0.0, 0.2, 0.5)  # of the tokens of mid-training that are replay
GAIN = 0.2  # of accuracy that counts as having learned
NUM_ERRORS = 3.0  # standard errors by which text must be worse to count as forgotten

_FAMILIES = (tasks.FAMILIES["chain_sum"],)
_NUM_PROBLEMS, _NUM_HELDOUT = 8000, 96


def _traces() -> Iterator[bytes]:
    drawn = tasks.mixed(_FAMILIES, tasks.LANGUAGES, seed=0, count=_NUM_PROBLEMS, heldout=False)
    for document in tasks.documents(drawn, traces=1.0, seed=0):
        yield document.encode()


STREAMS = {
    "english": python_text.read_prose,
    "korean": template_text.read_korean,
    "traces": _traces,
}


def _evaluators(
    corpus: data.Corpus, cfg: config.DataConfig, train: config.TrainConfig, built: training.Built
) -> tuple[Any, ...]:
    """Bits per byte of every text, and held-out problems at the end."""
    heldout = tasks.mixed(_FAMILIES, tasks.LANGUAGES, seed=1, count=_NUM_HELDOUT, heldout=True)
    solved = solving.accuracy(heldout, corpus.tokenizer, train.num_steps, built)
    return (*pretrain.JOB.evaluators(corpus, cfg, train, built), solved)


JOB = pretrain.JOB._replace(
    read=functools.partial(data.read_text, streams=STREAMS), evaluators=_evaluators
)


def arm_name(share: float) -> str:
    return f"{share:.0%} replay"


def arms(text: tuple[float, float]) -> tuple[sweep.Arm, ...]:
    """One for each share of replay; `text` is how the base mixed its two texts."""

    def arm(share: float) -> sweep.Arm:
        one, other = (share * part / sum(text) for part in text)
        weights = f"data.weights={one:g},{other:g},{1 - share:g}"
        return sweep.Arm(name=arm_name(share), edits=(weights,))

    return tuple(map(arm, SHARES))


def judge(runs: Sequence[Run]) -> tuple[str, list[Claim]]:
    """The headline and the claims, whatever came out."""
    before = results.select(runs, arm=BASE)
    after = {share: results.select(runs, arm=f"{MID}: {arm_name(share)}") for share in SHARES}
    texts = [
        PurePath(path).name.partition(".")[0]
        for path in before[0].config["data"]["paths"]
        if path != "traces"
    ]
    kept = claims.compared(
        f"With {arm_name(0.2)}, is every text's loss as good as before?",
        [(text, pairs.compare(after[0.2], before, text)) for text in texts],
    )
    forgot = _forgetting(after[0.0], before, texts)
    learned = [_learning(after[share], before, arm_name(share)) for share in SHARES]
    headline = {
        (True, True): "Replay of a fifth keeps what mid-training without replay forgets.",
        (False, True): "A fifth of replay is not enough to keep the base's text.",
        (True, False): "Nothing was forgotten, with or without replay.",
    }.get((kept.holds, forgot.holds), "These runs do not tell what replay keeps.")
    return headline, [kept, forgot, *learned]


def _forgetting(after: Sequence[Run], before: Sequence[Run], texts: Sequence[str]) -> Claim:
    """Is some text worse by more than chance without replay?"""
    question = f"Without replay, is some text's loss worse by over {NUM_ERRORS:g} standard errors?"
    details, worst = [], -np.inf
    try:
        for text in texts:
            found = statistics.difference(pairs.by_seed(after, text), pairs.by_seed(before, text))
            num_errors = found.value / found.error
            worst = max(worst, num_errors)
            details.append(f"{text}: {pairs.described(found)}, {num_errors:.1f} standard errors")
    except statistics.UnpairedError as error:
        return Claim(question, None, "Not measured.", (str(error),))
    holds = bool(worst > NUM_ERRORS)
    answer = f"{'Yes' if holds else 'No'}, by {worst:.1f}."
    if len(after) < statistics.MIN_SEEDS:
        return Claim(
            question, None, f"{answer} This is {claims.seeds(len(after))}.", tuple(details)
        )
    return Claim(question, holds, answer, tuple(details))


def _learning(after: Sequence[Run], before: Sequence[Run], name: str) -> Claim:
    """Does accuracy rise by GAIN, seed by seed?"""
    question = f"Does accuracy on held-out problems rise by {GAIN:g} or more with {name}?"
    both = {run.seed: run.value(solving.ACCURACY_KEY) for run in before}
    pairs_K = [(run.value(solving.ACCURACY_KEY), both[run.seed]) for run in after]
    details = tuple(f"{was:.3f} before, {now:.3f} after" for now, was in pairs_K)
    if len(pairs_K) < 2:
        return Claim(question, None, "One seed; no band.", details)
    now_K, was_K = (np.array(one) for one in zip(*pairs_K, strict=True))
    found = statistics.difference_of_seeds(now_K, was_K)
    answer = f"It rises by {found.value:.3f} +- {found.band:.3f}."
    holds = None
    if found.num_seeds >= statistics.MIN_SEEDS and abs(found.value - GAIN) > found.band:
        holds = found.value > GAIN
    return Claim(question, holds, answer, details)


def write(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
    headline, found = judge(runs)
    return stages.write(runs, about, path, headline=headline, claims_found=found)


run = pipeline.of({BASE: sweep.of(JOB), MID: sweep.of(JOB)}, write_report=write)


def experiment() -> pipeline.Pipeline:
    text = (0.6, 0.4)

    def training_of(name: str, question: str, weights, num_steps: int, lr: float):
        return pretrain.Config(
            name=name,
            question=question,
            model=dataclasses.replace(presets.tiny(), num_layers=3),
            execution=presets.LAPTOP,
            data=config.DataConfig(
                paths=tuple(STREAMS), weights=weights, seq_len=128, batch_size=8
            ),
            optimizer=config.OptimizerConfig(
                lr=lr,
                polar_dtype="float32",
                schedule=config.ScheduleConfig(warmup_steps=10, decay_steps=num_steps // 2),
            ),
            train=config.TrainConfig(
                num_steps=num_steps,
                eval_interval_steps=num_steps // 4,
                eval_batches=24,
                checkpoint_interval_steps=num_steps // 2,
            ),
        )

    base = training_of(
        BASE, "What does the base know of its two texts?", (*text, 0.0), num_steps=400, lr=0.015
    )
    mid = training_of(
        MID, "What is learned and what forgotten?", (0.0, 0.0, 1.0), num_steps=200, lr=0.01
    )
    return pipeline.Pipeline(
        name="mid_training",
        question="What does replay keep while a base learns to reason?",
        stages=(
            pipeline.Stage(BASE, sweep.Sweep(base=base, seeds=3)),
            pipeline.Stage(MID, sweep.Sweep(base=mid, arms=arms(text), seeds=3), init_from=BASE),
        ),
    )
