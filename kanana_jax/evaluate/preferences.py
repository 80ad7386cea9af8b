"""How often a model prefers the chosen answer of a pair: python -m kanana_jax.evaluate.preferences.

    accuracy = mean_k [s(chosen_k) > s(rejected_k)]

    --checkpoint=DIR --data=pairs.jsonl --by=mean

    mean     s = log p(answer | prompt), its EOS too, divided by the answer's tokens
    sum      the same undivided, which mostly prefers the shorter answer
    reward   s = the output of a reward model's scalar head at the answer's last token

A tie counts one half. A folder with a scalar head is measured by reward unless --by says otherwise,
others by mean. Pairs are read and tokenized as in training (`kanana_jax.data.preferences`); each
counts once. Prints a JSON line. Exit code 2: the folder or the pairs cannot be used.

Letters: N answers, B at a time, S positions.
"""

import argparse
import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kanana_jax import config, errors, model
from kanana_jax.batch import Batch
from kanana_jax.config import paths
from kanana_jax.data import preferences
from kanana_jax.evaluate import scoring
from kanana_jax.generate import command
from kanana_jax.weights import native, source

_PROGRAM = "kanana_jax.evaluate.preferences"

By = Literal["mean", "sum", "reward"]


class Accuracy(NamedTuple):
    num_pairs: int
    accuracy: float
    stderr: float  # of sampling the pairs
    margin: float  # mean of s(chosen) - s(rejected)


def accuracy(score_N: Float[np.ndarray, "N"]) -> Accuracy:
    """The accuracy of the scores of paired answers, each chosen one before its rejected one.

    ValueError without a pair.
    """
    if not len(score_N) or len(score_N) % 2:
        raise ValueError(f"expected an even number of answers, two at least, got {len(score_N)}")
    margin_K = score_N[::2] - score_N[1::2]
    right_K = 0.5 * (1.0 + np.sign(margin_K))
    # A single pair tells nothing about the spread.
    stderr = right_K.std(ddof=1) / np.sqrt(len(right_K)) if len(right_K) > 1 else np.nan
    return Accuracy(len(right_K), float(right_K.mean()), float(stderr), float(margin_K.mean()))


def likelihoods(
    scorer: scoring.Scorer, answers: Sequence[scoring.Pair], by: Literal["mean", "sum"]
) -> Float[np.ndarray, "N"]:
    """The log-likelihood of every answer; with "mean", divided by its tokens."""
    score_N = np.zeros(len(answers))
    for place, score in scorer.score(answers):
        length = len(answers[place].continuation) if by == "mean" else 1
        score_N[place] = score.loglikelihood / length
    return score_N


def rewards(
    cfg: config.ModelConfig,
    execution: config.ExecutionConfig,
    weights: model.Weights,
    answers: Sequence[scoring.Pair],
    *,
    num_rows: int,
    length: int,
) -> Float[np.ndarray, "N"]:
    """The scalar head's output at the last token of every answer, whose target is the EOS."""

    @jax.jit
    def last(weights: model.Weights, tokens_BS: Array, last_B: Array) -> Array:
        hidden_BSD, _ = model.hidden_states(
            cfg, weights, model.Inputs.of_tokens(tokens_BS), execution
        )
        scalar_BS = model.scalars(cfg, weights.params, hidden_BSD)
        return jnp.take_along_axis(scalar_BS, last_B[:, None], axis=1)[:, 0]

    found: list[float] = []
    for part in itertools.batched(answers, num_rows):
        rows = [[*one.context, *one.continuation][:-1] for one in part]
        tokens_BS = np.zeros((num_rows, length), np.int32)
        last_B = np.zeros(num_rows, np.int32)
        for place, row in enumerate(rows):
            tokens_BS[place, : len(row)], last_B[place] = row, len(row) - 1
        found += np.asarray(last(weights, tokens_BS, last_B))[: len(rows)].tolist()
    return np.array(found)


def read(path: str, tokenizer: str, length: int) -> list[scoring.Pair]:
    """The answers after their prompts, each chosen one before its rejected one. DataError."""
    cfg = config.DataConfig(paths=(path,), tokenizer=tokenizer, seq_len=2 * length, batch_size=1)
    with tempfile.TemporaryDirectory() as cache:
        corpus = preferences.read(cfg, Path(cache)).open()
    return [answer for batch, _ in corpus.every_example(cfg) for answer in _answers(batch)]


def _answers(batch: Batch) -> Iterator[scoring.Pair]:
    """The answers in a batch's only row, in the order of their segments."""
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
    directory = paths.local(arguments.checkpoint, "--checkpoint")
    has_scalars = source.open_source(directory).cfg.scalar_head
    by = arguments.by or ("reward" if has_scalars else "mean")
    if by == "reward" and not has_scalars:
        raise config.ConfigError(
            f"--by=reward: expected a model with a scalar head, got {directory}; train one with "
            "kanana_jax.jobs.reward, or measure by mean"
        )
    path = directory / "tokenizer.json"
    answers = read(arguments.data, str(path) if path.exists() else "bytes", arguments.length)
    if by == "reward":
        score_N = _rewards(directory, arguments, answers)
    else:
        loaded = command.load(arguments)
        scorer = scoring.Scorer(loaded, num_rows=arguments.batch_size, length=arguments.length)
        score_N = likelihoods(scorer, answers, by)
    found = accuracy(score_N)
    line = {"data": arguments.data, "by": by, "pairs": found.num_pairs}
    line |= {name: round(getattr(found, name), 6) for name in ("accuracy", "stderr", "margin")}
    print(json.dumps(line), flush=True)


def _rewards(
    directory: Path, arguments: argparse.Namespace, answers: Sequence[scoring.Pair]
) -> Float[np.ndarray, "N"]:
    if arguments.tensor_parallel != 1:
        raise config.ConfigError(
            "--tensor-parallel: rewards are computed on one device, got "
            f"{arguments.tensor_parallel}; leave it out"
        )
    what = native.read_description(directory)
    dtype: Any = arguments.dtype or what.compute_dtype  # one that the parser or a folder allows
    execution = config.ExecutionConfig(compute_dtype=dtype)
    weights = native.restore(directory, native.abstract(what.cfg, dtype))
    sizes = {"num_rows": arguments.batch_size, "length": arguments.length}
    return rewards(what.cfg, execution, weights, answers, **sizes)


def _parser() -> argparse.ArgumentParser:
    parser = command.model_parser(_PROGRAM)
    parser.add_argument("--data", required=True, help="a .jsonl file of pairs")
    parser.add_argument(
        "--by", choices=get_args(By), help="default: reward with a scalar head, else mean"
    )
    parser.add_argument("--length", type=int, default=2048, help="longest prompt with an answer")
    parser.add_argument("--batch-size", type=int, default=8, help="answers scored at a time")
    return parser


if __name__ == "__main__":
    main()
