"""How tokens are drawn: what both endpoints accept for sampling, penalties, ends and logprobs."""

import dataclasses
import secrets
from typing import Any

from kanana_jax.generate.logprobs import MOST_TOP_LOGPROBS
from kanana_jax.generate.processors import Processors
from kanana_jax.generate.sampling import NUM_SEEDS, Sampling
from kanana_jax.generate.serve import fields
from kanana_jax.generate.serve.fields import bad, kind_of, number, shown, take, whole

_MAX_STOPS, _MAX_STOP_LENGTH = 16, 256
_MAX_STOP_IDS, _MAX_BIASES = 64, 1024
_LARGEST_ID = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of one request; `generate.Request` says what they mean."""

    sampling: Sampling
    stop: tuple[str, ...]
    processors: Processors
    stop_ids: tuple[int, ...]
    ignores_eos: bool
    has_special_tokens: bool


def parse(left: dict[str, Any]) -> Options:
    """Takes its fields out of `left`."""
    return Options(
        sampling=_sampling(left),
        stop=_stop(left),
        processors=_processors(left),
        stop_ids=_stop_ids(left),
        ignores_eos=take(left, "ignore_eos", bool, False),
        has_special_tokens=not take(left, "skip_special_tokens", bool, True),
    )


def top_logprobs(left: dict[str, Any], name: str) -> int:
    """How many most likely tokens are wanted beside each."""
    return whole(left, name, 0, 0, MOST_TOP_LOGPROBS)


def _sampling(left: dict[str, Any]) -> Sampling:
    seed = whole(left, "seed", -1)
    return Sampling(
        temperature=number(left, "temperature", 1.0, 0.0, 2.0),
        top_k=whole(left, "top_k", 0, -1),
        top_p=number(left, "top_p", 1.0, 0.0, 1.0, is_above_low=True),
        min_p=number(left, "min_p", 0.0, 0.0, 1.0),
        # -1 means any, as in vLLM and llama.cpp.
        seed=secrets.randbelow(NUM_SEEDS) if seed == -1 else seed % NUM_SEEDS,
    )


def _processors(left: dict[str, Any]) -> Processors:
    return Processors(
        repetition_penalty=number(left, "repetition_penalty", 1.0, 0.01, 100.0),
        frequency_penalty=number(left, "frequency_penalty", 0.0, -2.0, 2.0),
        presence_penalty=number(left, "presence_penalty", 0.0, -2.0, 2.0),
        logit_bias=_logit_bias(left),
        min_tokens=whole(left, "min_tokens", 0, 0, _LARGEST_ID),
    )


def _logit_bias(left: dict[str, Any]) -> tuple[tuple[int, float], ...]:
    # An empty list comes from programs whose empty table is an empty list.
    given = left.pop("logit_bias", {}) or {}
    if not isinstance(given, dict) or len(given) > _MAX_BIASES:
        raise bad(
            "logit_bias",
            f"must be an object of at most {_MAX_BIASES} token ids, got {kind_of(given)}",
        )
    found = {}
    for name in given:
        if not (name.isascii() and name.isdecimal() and len(name) < 10):
            raise bad("logit_bias", f"must have token ids as names, got {shown(name)}")
        # Reported under one name whatever the token, so that errors are of few kinds.
        bias = number({"logit_bias": given[name]}, "logit_bias", 0.0, -100.0, 100.0)
        found[int(name)] = bias
    return tuple(sorted(found.items()))


def _stop(left: dict[str, Any]) -> tuple[str, ...]:
    stop = left.pop("stop", [])
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(one, str) for one in stops):
        raise bad("stop", f"must be a string or a list of them, got {kind_of(stop)}")
    if len(stops) > _MAX_STOPS or any(not 0 < len(one) <= _MAX_STOP_LENGTH for one in stops):
        raise bad(
            "stop",
            f"must be at most {_MAX_STOPS} strings of 1 to {_MAX_STOP_LENGTH} characters",
        )
    return tuple(stops)


def _stop_ids(left: dict[str, Any]) -> tuple[int, ...]:
    ids = left.pop("stop_token_ids", [])
    if (
        not isinstance(ids, list)
        or len(ids) > _MAX_STOP_IDS
        or not all(fields.is_integer(one) and 0 <= one <= _LARGEST_ID for one in ids)
    ):
        raise bad("stop_token_ids", f"must be at most {_MAX_STOP_IDS} token ids, got {shown(ids)}")
    return tuple(ids)
