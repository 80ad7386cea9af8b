"""What OpenAI's two endpoints accept, field by field, and the form of their errors.

A field that would do nothing here is refused unless it has the value that changes nothing.
"""

import dataclasses
import secrets
from collections.abc import Callable
from typing import Any

from kanana_jax.generate.sampling import Sampling

# Accepted with these values only.
_INERT: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False, 0),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}
# About the caller, not about the answer.
_IGNORED = ("metadata", "user")
_MAX_STOPS, _MAX_STOP_LENGTH, _MAX_CHOICES = 16, 256, 128
_NUM_SEEDS = 2**31
_ROLES = ("assistant", "developer", "system", "tool", "user")


class ApiError(Exception):
    """An answer other than 200, in OpenAI's form."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


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


def parse_completion(body: Any) -> Ask:
    """The fields of /v1/completions; raises ApiError with status 400."""
    return _parse(body, _prompts, ("max_tokens",), default_max_tokens=16)


def parse_chat(body: Any) -> Ask:
    """The fields of /v1/chat/completions; raises ApiError with status 400."""
    names = ("max_completion_tokens", "max_tokens")
    return _parse(body, _messages, names, default_max_tokens=None)


def _parse(
    body: Any,
    inputs: Callable[[dict[str, Any]], list[Any]],
    max_tokens_names: tuple[str, ...],
    *,
    default_max_tokens: int | None,
) -> Ask:
    if not isinstance(body, dict):
        raise ApiError(400, f"expected a JSON object, got {_kind(body)}")
    fields = {name: value for name, value in body.items() if value is not None}
    found = inputs(fields)
    model = _take(fields, "model", str, None)
    max_tokens = default_max_tokens
    for name in max_tokens_names:
        max_tokens = _whole(fields, name, max_tokens, 1, None)
    num_choices = _whole(fields, "n", 1, 1, _MAX_CHOICES)
    is_streamed = _take(fields, "stream", bool, False)
    options = dict(_take(fields, "stream_options", dict, {}))
    has_usage = _take(options, "include_usage", bool, False)
    if options:
        raise _bad("stream_options", f"has unknown fields {', '.join(sorted(options))}")
    sampling, stop = _sampling(fields), _stop(fields)
    _refuse_the_rest(fields)
    return Ask(model, found, num_choices or 1, max_tokens, sampling, stop, is_streamed, has_usage)


def _sampling(fields: dict[str, Any]) -> Sampling:
    temperature = _number(fields, "temperature", 1.0, 0.0, 2.0)
    top_k = _whole(fields, "top_k", 0, -1, None)  # -1 means all too, as in vLLM
    top_p = _number(fields, "top_p", 1.0, 0.0, 1.0)
    min_p = _number(fields, "min_p", 0.0, 0.0, 1.0)
    seed = _whole(fields, "seed", secrets.randbelow(_NUM_SEEDS), None, None)
    try:
        return Sampling(
            temperature=temperature,
            top_k=max(top_k or 0, 0),
            top_p=top_p,
            min_p=min_p,
            seed=(seed or 0) % _NUM_SEEDS,
        )
    except ValueError as error:
        raise ApiError(400, str(error)) from None


def choice_sampling(ask: Ask, place: int) -> Sampling:
    """The sampling of choice `place` of all: each has a seed of its own."""
    seed = (ask.sampling.seed + place) % _NUM_SEEDS
    return dataclasses.replace(ask.sampling, seed=seed)


def _stop(fields: dict[str, Any]) -> tuple[str, ...]:
    stop = fields.pop("stop", [])
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(one, str) for one in stops):
        raise _bad("stop", f"must be a string or a list of them, got {_kind(stop)}")
    if len(stops) > _MAX_STOPS or any(not 0 < len(one) <= _MAX_STOP_LENGTH for one in stops):
        raise _bad(
            "stop",
            f"must be at most {_MAX_STOPS} strings of 1 to {_MAX_STOP_LENGTH} characters",
        )
    return tuple(stops)


def _prompts(fields: dict[str, Any]) -> list[Any]:
    prompt = fields.pop("prompt", None)
    many = prompt if isinstance(prompt, list) else [prompt]
    if many and _is_ids(many):
        many = [many]
    is_good = [isinstance(one, str) or _is_ids(one) for one in many]
    if not many or not all(is_good):
        raise _bad("prompt", "must be a string, a list of token ids, or a list of such")
    return many


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_integer, value))


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _messages(fields: dict[str, Any]) -> list[Any]:
    messages = fields.pop("messages", None)
    if not isinstance(messages, list) or not messages:
        raise _bad("messages", f"must be a list of at least one message, got {_kind(messages)}")
    return [[_message(place, one) for place, one in enumerate(messages)]]


def _message(place: int, message: Any) -> dict[str, Any]:
    param = f"messages[{place}]"
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise _bad(param, f"must be an object with a role of {', '.join(_ROLES)}")
    unknown = sorted(message.keys() - {"role", "content", "name"})
    if unknown:
        raise _bad(param, f"has fields that are not supported: {', '.join(unknown)}")
    content = message.get("content")
    if isinstance(content, list):  # parts
        is_text = [isinstance(x, dict) and x.get("type") == "text" for x in content]
        if not all(is_text) or not all(isinstance(x.get("text"), str) for x in content):
            raise _bad(f"{param}.content", "may have parts of type text only")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise _bad(f"{param}.content", f"must be text, got {_kind(content)}")
    return message | {"content": content}


def _refuse_the_rest(fields: dict[str, Any]) -> None:
    for name in _IGNORED:
        fields.pop(name, None)
    for name, accepted in _INERT.items():
        value = fields.pop(name, None)
        if value is not None and value not in accepted:
            raise ApiError(
                400,
                f"{name} is not supported here: expected {accepted[0]!r} or nothing, got {value!r}",
                param=name,
                code="unsupported_parameter",
            )
    if fields:
        name = sorted(fields)[0]
        raise ApiError(400, f"unknown field {name}", param=name, code="unknown_parameter")


def _take(fields: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    value = fields.pop(name, default)
    if value is not default and not isinstance(value, kind):
        raise _bad(name, f"must be {kind.__name__}, got {_kind(value)}")
    return value


def _number(fields: dict[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = fields.pop(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise _bad(name, f"must be a number in [{low:g}, {high:g}], got {value!r}")
    return float(value)


def _whole(
    fields: dict[str, Any], name: str, default: int | None, low: int | None, high: int | None
) -> int | None:
    value = fields.pop(name, default)
    if value is default:
        return value
    if (
        not _is_integer(value)
        or (low is not None and value < low)
        or (high is not None and value > high)
    ):
        bounds = "" if low is None else f" of at least {low}"
        bounds += "" if high is None else f" and at most {high}"
        raise _bad(name, f"must be an integer{bounds}, got {value!r}")
    return value


def _bad(param: str, problem: str) -> ApiError:
    return ApiError(400, f"{param} {problem}", param=param)


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
