"""What an endpoint answered: an answer, a failure of this request, a fault to try again, or an end.

Decided by status codes and fields alone, never by the words of a message.
"""

import email.utils
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kanana_jax.errors import UserError
from kanana_jax.synthesize.requests import Request

# Timeouts, conflicts, rate limits, and servers that are in trouble.
RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
# The key, the address or the model is wrong, for all requests alike.
_ENDING = {401, 403, 404, 405}
_LONGEST_WAIT_S = 600.0  # a Retry-After is believed up to this


class EndpointError(UserError):
    """No request of the run can be answered; answers so far are kept."""


class Answer(NamedTuple):
    text: str
    tokens_in: int
    tokens_out: int
    tool_calls: Sequence[Any] = ()  # as the endpoint gave them, where the request has tools


Ask = Callable[[Request], Awaitable[Answer]]  # RequestFailed, EndpointError


class Failure(NamedTuple):
    """The failure of one request; it is not cached, so the next run asks again."""

    kind: str  # "refused", "empty", "cut", "status 400", "gave up"
    detail: str


class RequestFailed(Exception):
    """A request without an answer; the document that needs it has none in this run."""

    def __init__(self, failure: Failure):
        super().__init__(f"{failure.kind}: {failure.detail}")
        self.failure = failure


class Fault(NamedTuple):
    """A fault that calls for another try, after `wait_s` if the endpoint named a time."""

    detail: str
    wait_s: float | None = None


def read(
    status: int, headers: Mapping[str, str], content: bytes, model: str, now: float
) -> Answer | Failure | Fault:
    """`now` is the clock's time, seconds since 1970. EndpointError if all requests will fail."""
    if status in _ENDING:
        raise EndpointError(
            f"the endpoint answered {status} ({_shown(content)}); check --endpoint, --model and "
            "the key"
        )
    if status in RETRIED:
        return Fault(f"status {status}", retry_after(headers.get("retry-after"), now))
    if status != 200:
        return Failure(f"status {status}", _shown(content))
    try:
        body = json.loads(content)
        choice = body["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        text = message.get("content")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return Fault(f"an answer that is no chat completion: {_shown(content)}")
    _expect_model(body.get("model"), model)
    if message.get("refusal") or reason == "content_filter":
        return Failure("refused", str(message.get("refusal") or text or "")[:200])
    if reason == "length":
        return Failure("cut", "the answer reached max_tokens")
    calls = message.get("tool_calls") or ()
    calls = calls if isinstance(calls, list) else ()
    text = text if isinstance(text, str) else ""
    if not text.strip() and not calls:
        return Failure("empty", f"finish_reason {reason}")
    usage = body.get("usage") if isinstance(body.get("usage"), dict) else {}
    tokens = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    return Answer(text, *tokens, calls)


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait by a Retry-After header: a number, or a date. None where it says nothing."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now
        except ValueError:
            return None
    return min(max(seconds, 0.0), _LONGEST_WAIT_S) if seconds == seconds else None


def _expect_model(got: Any, wanted: str) -> None:
    # A dated version may answer for its alias; any other name is another model.
    if isinstance(got, str) and got != wanted and not got.startswith(f"{wanted}-"):
        raise EndpointError(
            f"expected answers of the model {wanted!r}, got one of {got!r}; give --model={got}, or "
            "another --endpoint"
        )


def _count(usage: Any, name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) else 0


def _shown(content: bytes) -> str:
    return " ".join(content[:200].decode("utf-8", "replace").split())
