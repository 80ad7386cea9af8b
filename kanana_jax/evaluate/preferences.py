"""How often a model prefers the chosen answer of a pair: python -m kanana_jax.evaluate.preferences.

    accuracy = mean_k [s(chosen_k) > s(rejected_k)]        s: log p(answer | prompt), its EOS too

    --checkpoint=DIR --data=pairs.jsonl --by=mean

A tie counts one half. `--by=mean` divides s by the tokens of the answer, without which the shorter
one is mostly preferred; `--by=sum` does not. Pairs are read and tokenized as in training
(`kanana_jax.data.preferences`); each counts once. Prints a JSON line. Exit code 2: the folder or
the pairs cannot be used.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from kanana_jax import config, errors, generate
from kanana_jax.batch import Batch
from kanana_jax.data import preferences
from kanana_jax.evaluate import scoring
from kanana_jax.generate import command

_PROGRAM = "kanana_jax.evaluate.preferences"

By = Literal["mean", "sum"]


class Accuracy(NamedTuple):
    num_pairs: int
    accuracy: float
    stderr: float  # of sampling the pairs
    margin: float  # mean of s(chosen) - s(rejected)


def accuracy(scorer: scoring.Scorer, answers: Sequence[scoring.Pair], by: By) -> Accuracy:
    """Of answers in pairs, each chosen one before its rejected one; ValueError without a pair."""
    if not answers or len(answers) % 2:
        raise ValueError(f"expected an even number of answers, two at least, got {len(answers)}")
    score_N = np.zeros(len(answers))
    for place, score in scorer.score(answers):
        length = len(answers[place].continuation) if by == "mean" else 1
        score_N[place] = score.loglikelihood / length
    margin_K = score_N[::2] - score_N[1::2]
    right_K = 0.5 * (1.0 + np.sign(margin_K))
    # Of one pair nothing is known of the spread.
    stderr = right_K.std(ddof=1) / np.sqrt(len(right_K)) if len(right_K) > 1 else np.nan
    return Accuracy(len(right_K), float(right_K.mean()), float(stderr), float(margin_K.mean()))


def read(path: str, tokenizer: str, length: int) -> list[scoring.Pair]:
    """The answers behind their prompts, each chosen one before its rejected one. DataError."""
    cfg = config.DataConfig(paths=(path,), tokenizer=tokenizer, seq_len=2 * length, batch_size=1)
    with tempfile.TemporaryDirectory() as cache:
        corpus = preferences.read(cfg, Path(cache)).open()
    return [answer for batch, _ in corpus.every_example(cfg) for answer in _answers(batch)]


def _answers(batch: Batch) -> Iterator[scoring.Pair]:
    """Those of the only row of a batch, in the order of their segments."""
    segment_S, counts_S = batch.segment_ids[0], batch.loss_mask[0] > 0
    for number in range(1, segment_S.max() + 1):
        (places,) = np.nonzero(segment_S == number)
        ids = [int(batch.tokens[0, places[0]]), *batch.targets[0, places].tolist()]
        first = 1 + int(np.argmax(counts_S[places]))  # targets are one token ahead
        yield scoring.Pair(ids[:first], ids[first:])


def main(argv: list[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    with errors.reported(_PROGRAM):
        _measure(arguments)


def _measure(arguments: argparse.Namespace) -> None:
    loaded = command.load(arguments)
    path = loaded.directory / "tokenizer.json"
    answers = read(arguments.data, str(path) if path.exists() else "bytes", arguments.length)
    found = accuracy(_scorer(loaded, arguments), answers, arguments.by)
    line = {"data": arguments.data, "by": arguments.by, "pairs": found.num_pairs}
    line |= {name: round(getattr(found, name), 6) for name in ("accuracy", "stderr", "margin")}
    print(json.dumps(line), flush=True)


def _scorer(loaded: generate.Loaded, arguments: argparse.Namespace) -> scoring.Scorer:
    return scoring.Scorer(loaded, num_rows=arguments.batch_size, length=arguments.length)


def _parser() -> argparse.ArgumentParser:
    parser = command.model_parser(_PROGRAM)
    parser.add_argument("--data", required=True, help="a .jsonl file of pairs")
    parser.add_argument(
        "--by", choices=("mean", "sum"), default="mean", help="of an answer's tokens"
    )
    parser.add_argument("--length", type=int, default=2048, help="longest prompt with an answer")
    parser.add_argument("--batch-size", type=int, default=8, help="answers scored at a time")
    return parser


if __name__ == "__main__":
    main()
