"""The evaluator of reasoning: the share of held-out problems that the model being trained solves.

Answers are drawn greedily, so what is measured is a function of the weights alone.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from kanana_jax import config, model
from kanana_jax.data import Tokenizer
from kanana_jax.generate import Request, Sampling
from kanana_jax.jobs import sampling
from kanana_jax.report.curves import Curve, Row
from kanana_jax.rollouts import tasks
from kanana_jax.train import fit

ACCURACY = Curve(
    name="heldout_accuracy",
    title="Held-out problems solved",
    reading=(
        "The share of held-out problems whose answer is right, and the share whose answer is "
        "preceded by a trace of which every step follows."
    ),
    rows=(
        Row(key="heldout_accuracy", label="right answers", is_marked=True, bottom=0.0, top=1.0),
        Row(
            key="heldout_trace_accuracy", label="right traces", is_marked=True, bottom=0.0, top=1.0
        ),
    ),
)


class Outcome(NamedTuple):
    """What became of one problem."""

    is_right: bool
    has_trace: bool
    trace_follows: bool  # every step of it follows, and none is missing


def accuracy(
    problems: Sequence[tasks.Problem],
    tokenizer: Tokenizer,
    every: int,
    built: Any,
    *,
    num_rows: int = 32,
    max_tokens: int = 64,
) -> fit.Evaluator:
    """Over `problems`, `num_rows` at a time; an answer of more than `max_tokens` is cut off.

    Measures `heldout_accuracy`, `heldout_trace_share`, `heldout_trace_accuracy`, and
    `heldout_accuracy_<name>` of every language and every family where there are several; each with
    `<key>_stderr`, the standard error from sampling the problems. Also
    `heldout_constant_accuracy`, the accuracy of the one answer that is right most often. Raises
    ConfigError where there is no problem.
    """
    if not problems:
        raise config.ConfigError("expected problems to measure accuracy on, got none")
    solve = _solver(problems, tokenizer, built, num_rows, max_tokens)

    def measure(weights: model.Weights) -> dict[str, float]:
        return summarize(problems, solve(weights))

    return fit.Evaluator("heldout_accuracy", every, measure)


def summarize(problems: Sequence[tasks.Problem], outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The shares that `accuracy` measures, each with its standard error."""
    right = [one.is_right for one in outcomes]
    shares = {
        "heldout_accuracy": right,
        "heldout_trace_share": [one.has_trace for one in outcomes],
        "heldout_trace_accuracy": [one.trace_follows for one in outcomes],
    }
    for kinds in ([one.language for one in problems], [one.family.name for one in problems]):
        names = list(dict.fromkeys(kinds))
        for name in names if len(names) > 1 else ():
            shares[f"heldout_accuracy_{name}"] = [
                is_right for is_right, kind in zip(right, kinds, strict=True) if kind == name
            ]
    found = {"heldout_constant_accuracy": tasks.constant_accuracy(problems)}
    for key, holds in shares.items():
        mean, size = sum(holds) / len(holds), len(holds)
        found[key] = mean
        found[f"{key}_stderr"] = math.sqrt(mean * (1 - mean) / (size - 1)) if size > 1 else math.nan
    return found


def _solver(
    problems: Sequence[tasks.Problem],
    tokenizer: Tokenizer,
    built: Any,
    num_rows: int,
    max_tokens: int,
) -> Callable[[model.Weights], list[Outcome]]:
    prompts = tokenizer.encode_documents([tasks.prompt_text(one).encode() for one in problems])
    requests = [
        # A prompt begins as documents do. What ends them is for the model to say.
        Request(prompt=ids[:-1].tolist(), max_tokens=max_tokens, sampling=Sampling(temperature=0.0))
        for ids in prompts
    ]
    longest = max(len(one.prompt) for one in requests) + max_tokens
    place, end_id = sampling.Place(num_rows, longest), int(prompts[0][-1])

    def solve(weights: model.Weights) -> list[Outcome]:
        answers = sampling.of(weights, built, tokenizer.decode, end_id, place)(requests)
        return [_outcome(one, answer.text) for one, answer in zip(problems, answers, strict=True)]

    return solve


def _outcome(problem: tasks.Problem, text: str) -> Outcome:
    trace = tasks.trace_of(problem, text)
    return Outcome(tasks.is_right(problem, text), bool(trace), all(tasks.follows(problem, trace)))
