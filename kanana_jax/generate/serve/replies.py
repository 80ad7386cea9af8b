"""The bodies in which an endpoint gives an answer: whole, and in parts of a stream."""

import dataclasses
import json
import time
import uuid
from collections.abc import Sequence
from typing import Any, Protocol

from kanana_jax.data.chat.reading import Reader, Said
from kanana_jax.data.tokenizer import Tokenizer
from kanana_jax.generate.requests import Piece
from kanana_jax.generate.serve import token_logprobs


class Choice(Protocol):
    """One answer, which grows."""

    def add(self, pieces: Sequence[Piece]) -> None: ...

    def part(self) -> dict[str, Any] | None:
        """The body of what came since the last part; None: nothing to say."""
        ...

    def whole(self) -> dict[str, Any]:
        """The body of the whole answer."""
        ...


@dataclasses.dataclass(frozen=True)
class Form:
    """How an endpoint spells answers."""

    prefix: str  # of ids
    kind: str
    part_kind: str
    opening: dict[str, Any] | None  # of every choice of a stream, before its text

    def head(self, model: str) -> dict[str, Any]:
        number = uuid.uuid4().hex
        return {"id": f"{self.prefix}-{number}", "created": int(time.time()), "model": model}


COMPLETION = Form("cmpl", "text_completion", "text_completion", None)
CHAT = Form(
    "chatcmpl",
    "chat.completion",
    "chat.completion.chunk",
    {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None},
)


class Completion:
    """An answer as text; `prompt` is the text and ids that stand before it, where it is echoed."""

    def __init__(
        self,
        used: Tokenizer,
        num_top_logprobs: int | None,
        prompt: tuple[str, Sequence[int]] | None,
        *,
        has_answer: bool = True,
    ):
        self._logprobs = None
        if num_top_logprobs is not None:
            self._logprobs = token_logprobs.Completion(used, num_top_logprobs)
        self._prompt, self._has_answer = prompt, has_answer
        self._text, self._reason = "", None

    def add(self, pieces: Sequence[Piece]) -> None:
        if self._prompt is not None:
            text, ids = self._prompt
            self._prompt, self._text = None, text
            if self._logprobs is not None:
                self._logprobs.add_prompt(ids, pieces[0].prompt_logprobs)
        self._reason = pieces[-1].finish_reason
        if not self._has_answer:
            return
        self._text += "".join(piece.text for piece in pieces)
        if self._logprobs is not None:
            for piece in pieces:
                self._logprobs.add(piece)

    def part(self) -> dict[str, Any] | None:
        if not (self._text or self._reason or self._logprobs):
            return None
        body = self.whole()
        self._text = ""
        return body

    def whole(self) -> dict[str, Any]:
        return {
            "text": self._text,
            "logprobs": None if self._logprobs is None else self._logprobs.take(),
            "finish_reason": self._reason,
        }


class Message:
    """An answer as a message of the assistant; without a reader all its text is content."""

    def __init__(
        self,
        used: Tokenizer,
        num_top_logprobs: int | None,
        reader: Reader | None,
        *,
        max_calls: int | None = None,
    ):
        self._used, self._num_top = used, num_top_logprobs
        self._reader, self._max_calls = reader, max_calls
        self._said, self._num_calls = Said(), 0
        self._logprobs: list[dict[str, Any]] = []
        self._reason = None

    def add(self, pieces: Sequence[Piece]) -> None:
        text, self._reason = "".join(piece.text for piece in pieces), pieces[-1].finish_reason
        if self._reader is None:
            self._say(Said(content=text))
        else:
            self._say(self._reader.push(text))
            if self._reason:
                self._say(self._reader.finish())
        if self._num_top is not None:
            self._logprobs += [
                token_logprobs.of_chat(self._used, piece, self._num_top) for piece in pieces
            ]

    def _say(self, new: Said) -> None:
        said = self._said
        calls = tuple(_written(one) for one in new.calls)
        self._said = Said(
            said.reasoning + new.reasoning, said.content + new.content, said.calls + calls
        )

    def part(self) -> dict[str, Any] | None:
        said, self._said = self._said, Said()
        delta: dict[str, Any] = {}
        if said.reasoning:
            delta["reasoning_content"] = said.reasoning
        if said.content:
            delta["content"] = said.content
        calls = self._counted(said.calls)
        if calls:
            delta["tool_calls"] = [{"index": place, **one} for place, one in calls]
        if not (delta or self._reason or self._logprobs):
            return None
        return {"delta": delta, **self._end()}

    def whole(self) -> dict[str, Any]:
        said = self._said
        calls = [one for _, one in self._counted(said.calls)]
        content = None if calls and not said.content else said.content
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if said.reasoning:
            message["reasoning_content"] = said.reasoning
        if calls:
            message["tool_calls"] = calls
        return {"message": message, **self._end()}

    def _counted(self, calls: Sequence[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
        """Calls with their places in the message, without those beyond `max_calls`."""
        first, self._num_calls = self._num_calls, self._num_calls + len(calls)
        numbered = list(enumerate(calls, start=first))
        return [pair for pair in numbered if self._max_calls is None or pair[0] < self._max_calls]

    def _end(self) -> dict[str, Any]:
        found, self._logprobs = self._logprobs, []
        reason = "tool_calls" if self._reason == "stop" and self._num_calls else self._reason
        logprobs = None if self._num_top is None else {"content": found, "refusal": None}
        return {"logprobs": logprobs, "finish_reason": reason}


def _written(call: dict[str, Any]) -> dict[str, Any]:
    """A call as OpenAI writes it: its arguments as text, and an id."""
    function = call["function"]
    return {
        "id": call.get("id") or f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {
            "name": function["name"],
            "arguments": json.dumps(function["arguments"], ensure_ascii=False),
        },
    }
