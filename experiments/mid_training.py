"""What does replay keep while a base learns to reason? On a laptop.

A base learns text in two languages: English prose that every Python carries, and Korean template
text, a stand-in where no real text is at hand. Mid-training then teaches it sums with their steps
written out, in both languages, with 0, 20 or 50 % of the base's text mixed in. The measures are
bits per byte of each text, before and after, and the share of held-out problems that are solved.

`--set=base.data.paths=en.jsonl,ko.jsonl,traces` and the same for `mid` take your own texts.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanana_jax import config, data
from kanana_jax.data import python_text, template_text
from kanana_jax.jobs import heldout, pipeline, pretrain, solving, sweep, training
from kanana_jax.model import presets
from kanana_jax.report import claims, pairs, results, stages, statistics
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run
from kanana_jax.rollouts import tasks

BASE, MID = "base", "mid"
ACCURACY, CONSTANT = "heldout_accuracy", "heldout_constant_accuracy"
SHARES = (0.0, 0.2, 0.5)  # of replay in the tokens of mid-training
GAIN = 0.2  # the gain in accuracy that counts as learned
NUM_ERRORS = 3.0  # standard errors by which text must be worse to count as forgotten

PATHS = ("english", "korean", "traces")


def job(
    families: Sequence[tasks.Family],
    *,
    num_problems: int,
    num_heldout: int,
    num_korean: int,
) -> training.Job:
    """Pretraining on text and traces, which measures held-out problems at its end."""
    drawn_of = functools.partial(tasks.mixed, families, tasks.LANGUAGES)

    def traces() -> Iterator[bytes]:
        drawn = drawn_of(seed=0, count=num_problems, heldout=False)
        return (one.encode() for one in tasks.documents(drawn, traces=1.0, seed=0))

    def korean() -> Iterator[bytes]:
        documents = template_text.documents("ko", seed=0, count=num_korean)
        return (one.encode() for one in documents)

    def evaluators(
        corpus: data.Corpus,
        cfg: config.DataConfig,
        train: config.TrainConfig,
        built: training.Built,
    ) -> tuple[Any, ...]:
        heldout = drawn_of(seed=1, count=num_heldout, heldout=True)
        solved = solving.accuracy(heldout, corpus.tokenizer, train.num_steps, built)
        return (*pretrain.JOB.evaluators(corpus, cfg, train, built), solved)

    streams = {"english": python_text.read_prose, "korean": korean, "traces": traces}
    return pretrain.JOB._replace(
        read=functools.partial(data.read_text, streams=streams), evaluators=evaluators
    )


JOB = job(
    (tasks.FAMILIES["chain_sum"],),
    num_problems=6000,
    num_heldout=96,
    num_korean=2500,
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
    paths = before[0].config["data"]["paths"]
    labels = zip(paths, heldout.labels(paths), strict=True)
    texts = [label for path, label in labels if path != "traces"]
    kept = claims.compared(
        f"With {arm_name(0.2)}, is every text's loss as good as before?",
        [(text, pairs.compare(after[0.2], before, text)) for text in texts],
    )
    forgot = _forgetting(after[0.0], before, texts)
    learned = [_learning(after[share], before, arm_name(share)) for share in SHARES]
    words: dict[Any, str] = {
        (True, True): "Replay of a fifth keeps what mid-training without replay forgets.",
        (False, True): "A fifth of replay is not enough to keep the base's text.",
        (True, False): "Nothing was forgotten, with or without replay.",
    }
    headline = words.get((kept.holds, forgot.holds), "These runs do not tell what replay keeps.")
    return headline, [kept, forgot, *learned]


def _forgetting(after: Sequence[Run], before: Sequence[Run], texts: Sequence[str]) -> Claim:
    """Is some text worse by more than chance without replay?"""
    question = f"Without replay, is some text's loss worse by over {NUM_ERRORS:g} standard errors?"
    details, worst = [], -np.inf
    try:
        for text in texts:
            found = statistics.difference(pairs.by_seed(after, text), pairs.by_seed(before, text))
            num_errors = found.value / found.error if found.value else 0.0
            worst = max(worst, num_errors)
            details.append(f"{text}: {pairs.described(found)}, {num_errors:.1f} standard errors")
    except statistics.UnpairedError as error:
        return Claim(question, None, "Not measured.", (str(error),))
    holds = bool(worst > NUM_ERRORS)
    answer = f"{'Yes' if holds else 'No'}, by {worst:.1f}."
    if len(after) < statistics.MIN_SEEDS:
        holds, answer = None, f"{answer} This is {claims.seeds(len(after))}."
    return Claim(question, holds, answer, tuple(details))


def _learning(after: Sequence[Run], before: Sequence[Run], name: str) -> Claim:
    """Does accuracy rise by GAIN, seed by seed, over the base's and a constant answer's?"""
    question = f"Does accuracy on held-out problems rise by {GAIN:g} or more with {name}?"
    was = {run.seed: max(run.value(ACCURACY), run.value(CONSTANT)) for run in before}
    return claims.rises(question, {run.seed: run.value(ACCURACY) for run in after}, was, GAIN)


def write(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
    headline, found = judge(runs)
    return stages.write(runs, about, path, headline=headline, claims_found=found)


def running(made: training.Job) -> Callable[[pipeline.Pipeline, Path], None]:
    return pipeline.of({BASE: sweep.of(made), MID: sweep.of(made)}, write_report=write)


run = running(JOB)


def experiment() -> pipeline.Pipeline:
    text = (0.6, 0.4)

    def training_of(name: str, question: str, weights, num_steps: int, batch_size: int, lr: float):
        return pretrain.Config(
            name=name,
            question=question,
            model=dataclasses.replace(presets.tiny(), num_layers=2),
            execution=presets.LAPTOP,
            data=config.DataConfig(
                paths=PATHS, weights=weights, seq_len=128, batch_size=batch_size
            ),
            optimizer=config.OptimizerConfig(
                lr=lr,
                polar_dtype="float32",
                schedule=config.ScheduleConfig(warmup_steps=10, decay_steps=2 * num_steps // 3),
            ),
            train=config.TrainConfig(
                num_steps=num_steps,
                eval_interval_steps=num_steps // 4,
                eval_batches=192 // batch_size,
                checkpoint_interval_steps=num_steps // 2,
            ),
        )

    base = training_of(
        BASE,
        "What does the base know of its two texts?",
        (*text, 0.0),
        num_steps=500,
        batch_size=8,
        lr=0.015,
    )
    mid = training_of(
        MID,
        "What is learned and what forgotten?",
        (0.0, 0.0, 1.0),
        num_steps=400,
        batch_size=16,
        lr=0.005,
    )
    return pipeline.Pipeline(
        name="mid_training",
        question="What does replay keep while a base learns to reason?",
        stages=(
            pipeline.Stage(BASE, sweep.Sweep(base=base, seeds=3)),
            pipeline.Stage(MID, sweep.Sweep(base=mid, arms=arms(text), seeds=3), init_from=BASE),
        ),
    )
