r"""Logprobs as the two endpoints write them.

Tokens are shown by their text. Completions show a token that is part of a character as
"bytes:\\xec" and the like, as OpenAI did, so that tokens are told apart; chats have its bytes.
"""

import codecs
from collections.abc import Sequence
from typing import Any

from kanana_jax.data.tokenizer import Tokenizer
from kanana_jax.generate.logprobs import Logprobs
from kanana_jax.generate.requests import Piece

# JSON has no infinity, and exp of this is 0.
_LEAST = -9999.0


class Completion:
    """The logprobs of a completion's tokens; `take` hands out what came since the last time."""

    def __init__(self, used: Tokenizer, num_top: int):
        self._used, self._num_top = used, num_top
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0
        self._lists = _no_lists()

    def __bool__(self) -> bool:
        """Whether there are some to take."""
        return bool(self._lists["tokens"])

    def add_prompt(self, ids: Sequence[int], found: Logprobs | None) -> None:
        """Adds a prompt's tokens; the first has no logprob, because nothing precedes it."""
        for place, token in enumerate(ids):
            of_token = found and place and Logprobs(*(x[place - 1] for x in found))
            self._append(token, of_token or None)

    def add(self, piece: Piece) -> None:
        self._append(piece.token, piece.logprobs)

    def take(self) -> dict[str, list[Any]]:
        lists, self._lists = self._lists, _no_lists()
        return lists

    def _append(self, token: int, found: Logprobs | None) -> None:
        spelled = self._used.spelled(token)
        self._lists["tokens"].append(_shown(spelled))
        self._lists["token_logprobs"].append(None if found is None else _number(found.logp_N))
        self._lists["top_logprobs"].append(found and self._tops(spelled, found))
        self._lists["text_offset"].append(self._offset)
        if self._used.is_text(token):
            self._offset += len(self._characters.decode(spelled))

    def _tops(self, spelled: bytes, found: Logprobs) -> dict[str, float]:
        """The most likely tokens, and the one that was drawn."""
        tops: dict[str, float] = {}
        for index, logp in zip(
            found.top_NK[: self._num_top], found.top_logp_NK[: self._num_top], strict=True
        ):
            tops.setdefault(_shown(self._used.spelled(int(index))), _number(logp))
        tops.setdefault(_shown(spelled), _number(found.logp_N))
        return tops


def _no_lists() -> dict[str, list[Any]]:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def of_chat(used: Tokenizer, piece: Piece, num_top: int) -> dict[str, Any]:
    """One token of a message."""
    found = piece.logprobs
    assert found is not None
    tops = zip(found.top_NK[:num_top], found.top_logp_NK[:num_top], strict=True)
    return {
        **_of_chat(used, piece.token, found.logp_N),
        "top_logprobs": [_of_chat(used, int(index), logp) for index, logp in tops],
    }


def _of_chat(used: Tokenizer, token: int, logp: Any) -> dict[str, Any]:
    spelled = used.spelled(token)
    return {
        "token": spelled.decode(errors="replace"),
        "logprob": _number(logp),
        "bytes": [*spelled],
    }


def _number(logp: Any) -> float:
    return max(float(logp), _LEAST)


def _shown(spelled: bytes) -> str:
    try:
        return spelled.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)
