"""What a JSON schema costs: constrained and free answers of one engine, in turns.

Each round times rows that are all free and rows that all follow a schema that no answer of this
length completes; the next round times them in the other order. One JSON line: the milliseconds that
a token of every row takes, by the clock and in CPU time of the process (medians of the rounds), and
the medians of the rounds' own ratios. The bound is 1.1.

    python -m benchmarks.constrained --checkpoint=smollm2      # which BUILD.md makes
    python -m benchmarks.constrained --checkpoint=smollm2 --top_p=0.9
"""

import itertools
import json
import statistics
import time
from typing import NamedTuple

import jax
from absl import app, flags

from kanana_jax import generate
from kanana_jax.generate import grammar

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A model folder.", required=True)
_ROWS = flags.DEFINE_integer("rows", 8, "Requests that run together.", lower_bound=1)
_TOKENS = flags.DEFINE_integer("tokens", 48, "Timed tokens of a request and round.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Pairs of timings.", lower_bound=1)
_AT_ONCE = flags.DEFINE_integer("tokens_per_step", 4, "Free tokens between two looks of the host.")
_TOP_P = flags.DEFINE_float("top_p", 1.0, "Below 1 every row ranks its tokens.")

# Objects without end: names, numbers, choices and white space, as in real schemas.
_SCHEMA = {
    "type": "array",
    "minItems": 1000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "kind": {"enum": ["person", "place", "thing"]},
        },
        "required": ["name", "age", "kind"],
        "additionalProperties": False,
    },
}
_WARM_UP_STEPS = 2


class Cost(NamedTuple):
    """Milliseconds that a token of every row takes."""

    clock_ms: float
    cpu_ms: float


def measure(engine: generate.Engine, requests: list[generate.Request]) -> Cost:
    """Drawing only: what happens until every request runs is left out."""
    numbers = [engine.submit(one) for one in requests]
    for _ in range(_WARM_UP_STEPS):
        engine.step()
    num_pieces, clock, cpu = 0, time.perf_counter(), time.process_time()
    while num_pieces < _TOKENS.value * len(requests):
        num_pieces += len(engine.step())
    per_token = 1e3 * len(requests) / num_pieces
    found = Cost((time.perf_counter() - clock) * per_token, (time.process_time() - cpu) * per_token)
    if engine.num_running != len(requests):
        raise app.UsageError("an answer ended while it was timed; ask for fewer --tokens")
    for number in numbers:
        engine.cancel(number)
    return found


def main(_) -> None:
    loaded = generate.load(_CHECKPOINT.value)
    length = 64 + _TOKENS.value + (_WARM_UP_STEPS + 1) * _AT_ONCE.value
    engine = loaded.engine(
        num_rows=_ROWS.value, length=length, chunk=64, tokens_per_step=_AT_ONCE.value
    )
    grammars = grammar.Grammars(loaded.tokenizer, loaded.cfg.vocab_size, loaded.eos_ids)
    ways = {
        "free": None,
        "constrained": grammars.constraint(grammar.Wanted(schema=_SCHEMA), None, "over"),
    }
    prompt = loaded.prompt_ids("A list of people, places and things, as JSON:\n")
    requests = {
        way: [
            generate.Request(
                prompt=prompt,
                max_tokens=length - len(prompt),
                sampling=generate.Sampling(seed=row, top_p=_TOP_P.value),
                ignores_eos=True,
                constraint=constraint,
            )
            for row in range(_ROWS.value)
        ]
        for way, constraint in ways.items()
    }
    for way in ways:
        measure(engine, requests[way])  # compiles
    order = itertools.cycle([[*ways], [*reversed(ways)]])
    rounds = [
        {way: measure(engine, requests[way]) for way in next(order)} for _ in range(_ROUNDS.value)
    ]
    print(json.dumps(_summary(rounds) | _about(loaded)))


def _summary(rounds: list[dict[str, Cost]]) -> dict[str, float]:
    found = {}
    for kind in Cost._fields:
        costs = {way: [getattr(one[way], kind) for one in rounds] for way in rounds[0]}
        for way, values in costs.items():
            found[f"{way}_{kind}"] = round(statistics.median(values), 3)
        ratios = [b / a for a, b in zip(costs["free"], costs["constrained"], strict=True)]
        found[f"{kind.removesuffix('_ms')}_ratio"] = round(statistics.median(ratios), 3)
    return found


def _about(loaded: generate.Loaded) -> dict[str, object]:
    return {
        "rows": _ROWS.value,
        "tokens": _TOKENS.value,
        "rounds": _ROUNDS.value,
        "tokens_per_step": _AT_ONCE.value,
        "top_p": _TOP_P.value,
        "vocab_size": loaded.cfg.vocab_size,
        "layers": loaded.cfg.num_layers,
        "hidden_size": loaded.cfg.hidden_size,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }


if __name__ == "__main__":
    app.run(main)
