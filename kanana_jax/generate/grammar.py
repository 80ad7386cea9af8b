"""Constrained sampling: answers that fit a JSON schema, or that are tool calls.

A constraint is written in llguidance's dialect of Lark and compiled once; each answer follows a
copy of it. Reasoning, where the model may write it, is not constrained.

Letters: W words of 32 bits, one per token.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt32

from kanana_jax import extras
from kanana_jax.data.chat.dialects import Dialect, Part, Thinking
from kanana_jax.data.tokenizer import Tokenizer
from kanana_jax.errors import UserError
from kanana_jax.generate.processors import num_words
from kanana_jax.generate.requests import Matcher

with extras.needed("train", "serve"):
    import llguidance

# Between JSON tokens: room to indent, but bounded.
_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,32}"
# All but the numeric ones, which may be halves of surrogate pairs and are never needed.
_ESCAPES = 'nrbtf\\"'
_ANYTHING = "(?s:.*)"
_MAX_CHARACTERS = 2**18  # compiled in about a second


class GrammarError(UserError, ValueError):
    """A schema that cannot be enforced."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """What an answer must be: content that fits a schema, tool calls, or either."""

    schema: Mapping[str, Any] | None = None  # of the content; None: any text
    tools: Sequence[Mapping[str, Any]] = ()  # that may be called
    must_call: bool = False
    is_parallel: bool = True  # whether there may be more calls than one

    @property
    def is_free(self) -> bool:
        return self.schema is None and not self.must_call and not any(map(is_strict, self.tools))


def is_strict(tool: Mapping[str, Any]) -> bool:
    """Whether calls must fit the tool's schema wherever the model may choose to call."""
    return tool["function"].get("strict") is True


class Grammars:
    """Compiles constraints for the tokens of one model."""

    def __init__(self, used: Tokenizer, vocab_size: int, eos_ids: Sequence[int]):
        self._used, self._vocab_size = used, vocab_size
        source = used.json or llguidance.TokenizerWrapper(_Bytes(used))
        self._tokens = llguidance.LLTokenizer(
            source, n_vocab=vocab_size, eos_token=list(eos_ids) or None
        )

    def constraint(
        self, wanted: Wanted, dialect: Dialect | None, thinking: Thinking
    ) -> Callable[[], Matcher]:
        """Makes a matcher for each answer. GrammarError where the schema cannot be enforced."""
        source = _Source(self._used, dialect, wanted).lark(thinking)
        if len(source) > _MAX_CHARACTERS:
            raise GrammarError(
                f"schemas may have {_MAX_CHARACTERS} characters together, got {len(source)}; give "
                "smaller ones"
            )
        grammar = llguidance.LLMatcher.grammar_from_lark(source)
        compiled = llguidance.LLMatcher(self._tokens, grammar, log_level=0)
        if compiled.is_error():
            raise GrammarError(f"the schema cannot be kept to: {compiled.get_error().strip()}")
        return lambda: _Matcher(compiled.deep_copy(), num_words(self._vocab_size))


class _Matcher:
    def __init__(self, matcher: Any, num_words: int):
        self._matcher, self._num_words = matcher, num_words

    @property
    def is_whole(self) -> bool:
        return self._matcher.is_stopped() and not self._matcher.is_error()

    @property
    def has_given_up(self) -> bool:
        return self._matcher.is_error()

    def allowed(self) -> UInt32[np.ndarray, "W"]:
        # If the matcher has given up, or does so here, the bits are those of the ends.
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)
        allowed_W = np.zeros(self._num_words, np.uint32)
        allowed_W[: len(bits)] = bits[: self._num_words]
        return allowed_W

    def push(self, token: int) -> None:
        self._matcher.consume_token(token)


class _Bytes:
    """The byte tokenizer as llguidance reads it."""

    def __init__(self, used: Tokenizer):
        special = range(256, used.vocab_size)
        self.tokens = [bytes([i]) for i in range(256)] + [used.spelled(i) for i in special]
        self.special_token_ids = [*special]
        self.bos_token_id, self.eos_token_id = used.bos_id, used.eos_id

    def __call__(self, text: bytes) -> list[int]:
        return [*text]


@dataclasses.dataclass(frozen=True)
class _Source:
    """The text of a grammar."""

    used: Tokenizer
    dialect: Dialect | None
    wanted: Wanted

    def lark(self, thinking: Thinking) -> str:
        thought = self._thought(thinking)
        first = "" if not thought else "thought " if thinking == "open" else "thought? "
        return "\n".join([f"start: {first}body", *thought, f"TEXT: /{_ANYTHING}/", *self._body()])

    def _thought(self, thinking: Thinking) -> list[str]:
        if self.dialect is None or thinking == "over":
            return []
        opening, closing = self.dialect.thought
        begin = "" if thinking == "open" else self._symbol(opening)
        return [
            f"thought: {begin} inside gap",
            self._up_to("inside", closing),
            r'gap: ("\n" "\n"?)?',
        ]

    def _up_to(self, name: str, mark: str) -> str:
        """The rule for text that ends in `mark` and does not contain it earlier."""
        # Special tokens are not text; for other marks the shortest match counts.
        lazy = "" if self.used.is_special(mark) else "[lazy]"
        return f"{name}{lazy}: TEXT {self._symbol(mark)}"

    def _body(self) -> list[str]:
        wanted, choices, lines = self.wanted, [], []
        if wanted.schema is not None:
            choices.append("content")
            lines.append(f"content: %json {_json(wanted.schema)}")
        elif not wanted.must_call:
            choices.append("TEXT")
        if wanted.tools and self.dialect is not None:
            is_after_text = wanted.schema is None and not wanted.must_call
            choices.append("calls")
            lines += self._calls(self.dialect, is_after_text=is_after_text)
        return [f"body: {' | '.join(choices)}", *lines]

    def _calls(self, dialect: Dialect, *, is_after_text: bool) -> list[str]:
        mark, end = self._symbol(dialect.call[0]), dialect.section[1]
        between = self._symbol(dialect.between) if dialect.between else ""
        rest = f"{mark if end else ''} named"
        rest += f" ({between} {mark} named)*" if self.wanted.is_parallel else ""
        rest += f" {self._symbol(end)}" if end else ""
        opening = self._symbol(dialect.opening)
        if is_after_text and dialect.is_line:
            opening = f"/({_ANYTHING}\\n)?{re.escape(dialect.opening)}/"
        names = [f"named_{place}" for place, _ in enumerate(self.wanted.tools)]
        lines = [f"calls: opening {rest}", f"named: {' | '.join(names)}"]
        if is_after_text and not dialect.is_line:
            lines.append(self._up_to("opening", dialect.opening))
        else:
            lines.append(f"opening{'[lazy]' if is_after_text else ''}: {opening}")
        for name, tool in zip(names, self.wanted.tools, strict=True):
            before = self._symbols(dialect.before(tool["function"]["name"]))
            lines.append(f"{name}: {before} {name}_arguments {self._symbols(dialect.after)}")
            schema = _arguments(tool, is_compact=dialect.is_line)
            lines.append(f"{name}_arguments: %json {schema}")
        return lines

    def _symbols(self, parts: Sequence[Part]) -> str:
        return " ".join(map(self._symbol, parts))

    def _symbol(self, part: Part) -> str:
        if isinstance(part, re.Pattern):
            return f"/{part.pattern}/"
        if self.used.is_special(part):
            return f"<[{self.used.token_id(part)}]>"
        return json.dumps(part, ensure_ascii=False)


def _arguments(tool: Mapping[str, Any], *, is_compact: bool) -> str:
    schema = {**(tool["function"].get("parameters") or {}), "type": "object"}
    return _json(schema, is_compact=is_compact, is_lenient=not is_strict(tool))


def _json(schema: Mapping[str, Any], *, is_compact: bool = False, is_lenient: bool = False) -> str:
    """The schema as it stands in a grammar; a lenient one may have unknown keywords."""
    spaces = {"whitespace_flexible": False} if is_compact else {"whitespace_pattern": _WHITESPACE}
    options = {**spaces, "json_allowed_escapes": _ESCAPES, "lenient": is_lenient}
    return json.dumps({**schema, "x-guidance": options}, ensure_ascii=False)
