"""The evaluator of reasoning: the share of held-out problems that the model being trained solves.

Answers are drawn greedily, so what is measured is a function of the weights alone. Each process
solves a part of the problems on one of its devices, where the whole model must fit, and all
processes have the numbers of all problems.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kanana_jax import config, model, parallel
from kanana_jax.data import Tokenizer
from kanana_jax.generate import Engine, Request, Sampling, decoder
from kanana_jax.report.curves import Curve, Row
from kanana_jax.rollouts import tasks
from kanana_jax.train import fit

# Prompts are read in parts of one width, so one function is compiled for all of them.
_CHUNK = 32

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
    trace_follows: bool  # every step of it, and none is missing


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
    `<key>_stderr`, the standard error of having sampled the problems. Beside them
    `heldout_constant_accuracy`, that of the one answer which is right most often. ConfigError where
    there is no problem.
    """
    if not problems:
        raise config.ConfigError("expected problems to measure accuracy on, got none")
    index, count = jax.process_index(), jax.process_count()
    solve = _solver(problems[index::count], tokenizer, built, num_rows, max_tokens)

    def measure(weights: model.Weights) -> dict[str, float]:
        parts = parallel.everyones(solve(weights))
        found = [Outcome(*parts[i % count][i // count]) for i in range(len(problems))]
        return summarize(problems, found)

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
    cfg, execution = built.steps.cfg.model, built.steps.cfg.execution
    prompts = tokenizer.encode_documents([tasks.prompt_text(one).encode() for one in problems])
    requests = [
        # A prompt begins as documents do. What ends them is for the model to say.
        Request(prompt=ids[:-1].tolist(), max_tokens=max_tokens, sampling=Sampling(temperature=0.0))
        for ids in prompts
    ]
    eos_ids = {int(ids[-1]) for ids in prompts}
    longest = max((len(one.prompt) for one in requests), default=0) + max_tokens

    def solve(weights: model.Weights) -> list[Outcome]:
        engine = Engine(
            cfg,
            execution,
            _on_one_device(cfg, built.mesh)(weights),
            decode=tokenizer.decode,
            eos_ids=eos_ids,
            num_rows=num_rows,
            length=-(-longest // _CHUNK) * _CHUNK,
            chunk=_CHUNK,
        )
        texts = [""] * len(requests)
        for piece in engine.run(requests):
            texts[piece.request] += piece.text
        return [_outcome(one, text) for one, text in zip(problems, texts, strict=True)]

    return solve


def _outcome(problem: tasks.Problem, text: str) -> Outcome:
    trace = tasks.trace_of(problem, text)
    return Outcome(tasks.is_right(problem, text), bool(trace), all(tasks.follows(problem, trace)))


@functools.lru_cache(maxsize=8)
def _on_one_device(cfg: config.ModelConfig, mesh: jax.sharding.Mesh) -> Callable:
    """From weights of training on `mesh` to those that decoding reads, on a device of our own."""
    unstack = jax.jit(
        functools.partial(decoder.from_stacks, cfg), out_shardings=NamedSharding(mesh, P())
    )
    return lambda weights: jax.tree.map(lambda x: x.addressable_data(0), unstack(weights))
