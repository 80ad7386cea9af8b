"""What OpenAI's two endpoints accept, field by field.

A field that would do nothing here is refused unless its value asks for nothing;
`generate.neutral` lists such values.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from kanana_jax.generate import neutral
from kanana_jax.generate.grammar import Wanted
from kanana_jax.generate.serve import fields, messages, options, tools
from kanana_jax.generate.serve.fields import ApiError, bad, kind_of, shown, take, whole
from kanana_jax.generate.serve.options import Options
from kanana_jax.generate.serve.tools import Tooling

_MAX_CHOICES = 128
# What a template is given besides its variables.
_RESERVED = {"add_generation_prompt", "documents", "is_marked", "messages", "self", "tools"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
    """A request's fields, checked, except for what needs the tokenizer."""

    model: str | None
    inputs: list[Any]  # each a prompt, text or ids; for chat, one list of messages
    num_choices: int  # of each input
    max_tokens: int | None
    options: Options
    is_streamed: bool
    has_usage: bool  # of a stream: whether a last chunk counts tokens
    num_top_logprobs: int | None = None  # None: no logprobs
    is_echoed: bool = False
    tooling: Tooling = dataclasses.field(default_factory=Tooling)  # of chat
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the template
    image_urls: Sequence[str] = ()  # of chat, one for each mark in it

    @property
    def num_requests(self) -> int:
        return len(self.inputs) * self.num_choices


def parse_completion(body: Any) -> Ask:
    """The fields of /v1/completions; raises ApiError with status 400."""
    left = _object(body)
    prompts = _prompts(left)
    is_echoed = take(left, "echo", bool, False)
    num_top = None
    if left.get("logprobs", False) is not False:
        num_top = options.top_logprobs(left, "logprobs")
    left.pop("logprobs", None)
    # With echo nothing need be drawn: the prompt can be scored.
    max_tokens = whole(left, "max_tokens", 16, 0 if is_echoed else 1)
    tooling = Tooling(wanted=Wanted(schema=tools.schema(left)))
    common = _common(left, max_tokens, neutral.COMPLETION)
    return Ask(
        inputs=prompts,
        is_echoed=is_echoed,
        num_top_logprobs=num_top,
        tooling=tooling,
        **common,
    )


def parse_chat(body: Any, hear: messages.Hear = messages.deaf, *, has_images: bool = False) -> Ask:
    """The fields of /v1/chat/completions; raises ApiError with status 400."""
    left = _object(body)
    conversation = messages.parse(left.pop("messages", None), hear, has_images=has_images)
    max_tokens = None
    # Clients send both the old name and the new one; the new one counts.
    for name in ("max_tokens", "max_completion_tokens"):
        max_tokens = whole(left, name, max_tokens, 1)
    has_logprobs = take(left, "logprobs", bool, False)
    if left.get("top_logprobs") and not has_logprobs:
        raise bad("top_logprobs", "needs logprobs: set it to true, or leave this out")
    num_top = options.top_logprobs(left, "top_logprobs")
    tooling, variables = tools.parse(left), _variables(left)
    return Ask(
        inputs=[conversation.messages],
        image_urls=conversation.image_urls,
        num_top_logprobs=num_top if has_logprobs else None,
        tooling=tooling,
        variables=variables,
        **_common(left, max_tokens, neutral.CHAT),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskTokens:
    """What /tokenize is asked for: a prompt's tokens, or those of a chat's prompt."""

    model: str | None
    given: Any
    is_whole: bool = True  # with what the tokenizer puts around a prompt
    tooling: Tooling = dataclasses.field(default_factory=Tooling)
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def parse_prompt(body: Any, hear: messages.Hear = messages.deaf) -> AskTokens:
    """The fields of /tokenize; raises ApiError with status 400."""
    left = _object(body)
    model = take(left, "model", str, None)
    if "messages" not in left:
        prompt, is_whole = left.pop("prompt", None), take(left, "add_special_tokens", bool, True)
        if not isinstance(prompt, str):
            raise bad("prompt", f"must be a string, got {kind_of(prompt)}")
        fields.refuse_others(left, {})
        return AskTokens(model=model, given=prompt, is_whole=is_whole)
    conversation = messages.parse(left.pop("messages"), hear).messages
    tooling, variables = tools.parse(left), _variables(left)
    fields.refuse_others(left, neutral.PROMPT)
    return AskTokens(model=model, given=conversation, tooling=tooling, variables=variables)


def parse_ids(body: Any, vocab_size: int) -> tuple[str | None, list[int]]:
    """The fields of /detokenize: (model, token ids)."""
    left = _object(body)
    model, ids = take(left, "model", str, None), left.pop("tokens", None)
    if not _is_ids(ids) or not all(0 <= one < vocab_size for one in ids):
        raise bad("tokens", f"must be a list of token ids in [0, {vocab_size}), got {shown(ids)}")
    fields.refuse_others(left, {})
    return model, ids


def _object(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise ApiError(400, f"expected a JSON object, got {kind_of(body)}")
    return fields.without_nulls(body)


def _common(left: dict[str, Any], max_tokens: int | None, table: neutral.Table) -> dict[str, Any]:
    """The fields that both endpoints have; refuses what is left."""
    is_streamed, has_usage = _stream(left)
    found = {
        "model": take(left, "model", str, None),
        "num_choices": _num_choices(left),
        "max_tokens": max_tokens,
        "options": options.parse(left),
        "is_streamed": is_streamed,
        "has_usage": has_usage,
    }
    min_tokens = found["options"].processors.min_tokens
    if max_tokens is not None and min_tokens > max_tokens:
        raise bad("min_tokens", f"must be at most max_tokens = {max_tokens}, got {min_tokens}")
    fields.refuse_others(left, table)
    return found


def _num_choices(left: dict[str, Any]) -> int:
    num_choices = whole(left, "n", 1, 1, _MAX_CHOICES)
    num_drawn = whole(left, "best_of", num_choices, 1)
    if num_drawn != num_choices:
        raise bad("best_of", f"must be n = {num_choices} or nothing, got {shown(num_drawn)}")
    return num_choices


def _stream(left: dict[str, Any]) -> tuple[bool, bool]:
    """(whether the answer is streamed, whether tokens are counted at its end)"""
    is_streamed = take(left, "stream", bool, False)
    given = take(left, "stream_options", dict, {})
    if given and not is_streamed:
        raise bad("stream_options", "is for streams: set stream to true, or leave it out")
    given = fields.without_nulls(given)
    has_usage = given.pop("include_usage", False)
    if not isinstance(has_usage, bool):
        raise bad("stream_options.include_usage", f"must be bool, got {kind_of(has_usage)}")
    fields.refuse_others(given, neutral.STREAM_OPTIONS, "stream_options.")
    return is_streamed, has_usage


def _variables(left: dict[str, Any]) -> dict[str, Any]:
    """Variables of the template: chat_template_kwargs and documents."""
    variables = dict(take(left, "chat_template_kwargs", dict, {}))
    reserved = sorted(_RESERVED.intersection(variables))
    if reserved:
        raise bad(f"chat_template_kwargs.{reserved[0]}", "has a field of its own, or is not given")
    documents = left.pop("documents", [])
    if not isinstance(documents, list) or not all(isinstance(one, dict) for one in documents):
        raise bad("documents", f"must be a list of objects, got {kind_of(documents)}")
    return variables | ({"documents": documents} if documents else {})


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
