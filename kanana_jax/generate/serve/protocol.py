"""What OpenAI's two endpoints accept, field by field.

A field that would do nothing here is refused unless it has a value that asks for nothing, which
`generate.neutral` lists.
"""

import dataclasses
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from kanana_jax.generate import neutral
from kanana_jax.generate.sampling import NUM_SEEDS, Sampling
from kanana_jax.generate.serve import fields, messages
from kanana_jax.generate.serve.fields import ApiError, bad, kind_of, number, shown, take, whole

_MAX_STOPS, _MAX_STOP_LENGTH, _MAX_CHOICES = 16, 256, 128


@dataclasses.dataclass(frozen=True)
class Ask:
    """A request's fields, checked, except for what needs the tokenizer."""

    model: str | None
    inputs: list[Any]  # each a prompt, text or ids; or of chat one list of messages
    num_choices: int  # of each input
    max_tokens: int | None
    sampling: Sampling
    stop: tuple[str, ...]
    is_streamed: bool
    has_usage: bool  # of a stream: whether a last chunk counts tokens
    tools: tuple[Mapping[str, Any], ...] = ()  # of chat

    @property
    def num_requests(self) -> int:
        return len(self.inputs) * self.num_choices


def parse_completion(body: Any) -> Ask:
    """The fields of /v1/completions; raises ApiError with status 400."""
    return _parse(body, _prompts, ("max_tokens",), neutral.COMPLETION, default_max_tokens=16)


def parse_chat(body: Any) -> Ask:
    """The fields of /v1/chat/completions; raises ApiError with status 400."""
    # Clients send the old name beside the new one, which counts.
    names = ("max_tokens", "max_completion_tokens")
    tools = messages.parse_tools(body.get("tools")) if isinstance(body, dict) else []
    rest = {key: body[key] for key in body if key != "tools"} if isinstance(body, dict) else body
    ask = _parse(rest, _conversation, names, neutral.CHAT, default_max_tokens=None)
    return dataclasses.replace(ask, tools=tuple(tools))


def _parse(
    body: Any,
    inputs: Callable[[dict[str, Any]], list[Any]],
    max_tokens_names: tuple[str, ...],
    table: neutral.Table,
    *,
    default_max_tokens: int | None,
) -> Ask:
    if not isinstance(body, dict):
        raise ApiError(400, f"expected a JSON object, got {kind_of(body)}")
    left = fields.without_nulls(body)
    found = inputs(left)
    model = take(left, "model", str, None)
    max_tokens = default_max_tokens
    for name in max_tokens_names:
        max_tokens = whole(left, name, max_tokens, 1)
    num_choices = _num_choices(left)
    is_streamed, has_usage = _stream(left)
    sampling, stop = _sampling(left), _stop(left)
    fields.refuse_others(left, table)
    return Ask(model, found, num_choices, max_tokens, sampling, stop, is_streamed, has_usage)


def _num_choices(left: dict[str, Any]) -> int:
    num_choices = whole(left, "n", 1, 1, _MAX_CHOICES)
    num_drawn = whole(left, "best_of", num_choices, 1)
    if num_drawn != num_choices:
        raise bad("best_of", f"must be n = {num_choices} or nothing, got {shown(num_drawn)}")
    return num_choices


def _stream(left: dict[str, Any]) -> tuple[bool, bool]:
    """(whether the answer is streamed, whether tokens are counted at its end)"""
    is_streamed = take(left, "stream", bool, False)
    options = take(left, "stream_options", dict, {})
    if options and not is_streamed:
        raise bad("stream_options", "is for streams: set stream to true, or leave it out")
    options = fields.without_nulls(options)
    has_usage = options.pop("include_usage", False)
    if not isinstance(has_usage, bool):
        raise bad("stream_options.include_usage", f"must be bool, got {kind_of(has_usage)}")
    fields.refuse_others(options, neutral.STREAM_OPTIONS, "stream_options.")
    return is_streamed, has_usage


def _sampling(left: dict[str, Any]) -> Sampling:
    seed = whole(left, "seed", -1)
    return Sampling(
        temperature=number(left, "temperature", 1.0, 0.0, 2.0),
        top_k=whole(left, "top_k", 0, -1),
        top_p=number(left, "top_p", 1.0, 0.0, 1.0, is_above_low=True),
        min_p=number(left, "min_p", 0.0, 0.0, 1.0),
        # -1 means any, as for vLLM and llama.cpp.
        seed=secrets.randbelow(NUM_SEEDS) if seed == -1 else seed % NUM_SEEDS,
    )


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


def _prompts(left: dict[str, Any]) -> list[Any]:
    prompt = left.pop("prompt", None)
    many = prompt if isinstance(prompt, list) else [prompt]
    if many and _is_ids(many):
        many = [many]
    is_good = [isinstance(one, str) or _is_ids(one) for one in many]
    if not many or not all(is_good):
        raise bad("prompt", "must be a string, a list of token ids, or a list of such")
    return many


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(map(fields.is_integer, value))


def _conversation(left: dict[str, Any]) -> list[Any]:
    return [messages.parse(left.pop("messages", None))]
