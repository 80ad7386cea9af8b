r"""How model families write reasoning and tool calls in a turn.

    hermes     <tool_call>\n{"name": N, "arguments": {...}}\n</tool_call>      Kanana-2, Qwen
    kimi_k2    <|tool_call_begin|>functions.N:0<|tool_call_argument_begin|>{...}<|tool_call_end|>
    deepseek   <CALL>N<SEP>{...}</CALL>, or <CALL>function<SEP>N\n```json\n{...}\n```</CALL>
    plain      @N {...}                                                        a line of its own

Kimi K2 and DeepSeek also have marks around all calls of a turn.
"""

import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any, Literal

from kanana_jax.data.chat import hermes, plain
from kanana_jax.data.chat.format import FormatError
from kanana_jax.data.chat.messages import NAME, call

# Whether a prompt has opened the reasoning, has closed it, or says nothing about it.
Thinking = Literal["open", "over", "possible"]
# Parts of a written call: text, marks as parts of their own, and patterns for digits.
Part = str | re.Pattern[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dialect:
    """The marks of a family, and what stands between them."""

    name: str
    thought: tuple[str, str]  # around reasoning
    call: tuple[str, str]  # around one call
    read: Callable[[str], dict[str, Any]]  # a call from its text; raises FormatError
    before: Callable[[str], tuple[Part, ...]]  # of a tool: between a call's mark and its arguments
    after: tuple[Part, ...] = ()  # after the arguments, with the closing mark
    section: tuple[str, str] = ("", "")  # around all calls of a turn
    between: str = ""  # between calls
    is_line: bool = False  # whether a call is a line, with a mark at its beginning only

    @property
    def opening(self) -> str:
        """The mark that shows that calls begin."""
        return self.section[0] or self.call[0]

    @property
    def marks(self) -> tuple[str, ...]:
        return tuple(filter(str.strip, (*self.thought, *self.section, *self.call)))


def _checked(found: dict[str, Any]) -> dict[str, Any]:
    """A call whose arguments are JSON in Unicode."""
    try:
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise FormatError(f"expected arguments of JSON, got others: {error}") from None
    return found


def _read_hermes(text: str) -> dict[str, Any]:
    return _checked(hermes.call_of(text))


def _read_plain(text: str) -> dict[str, Any]:
    return _checked(plain.call_of(f"@{text}"))


_KIMI_CALL = re.compile(
    rf"\s*(?:functions\.)?({NAME.pattern}):(\d+)\s*<\|tool_call_argument_begin\|>(.*)", re.DOTALL
)


def _read_kimi(text: str) -> dict[str, Any]:
    found = _KIMI_CALL.fullmatch(text)
    if found is None:
        raise FormatError(f"expected functions.NAME:NUMBER and arguments, got {text[:80]!r}")
    # The model tells results apart by the ids that it gave.
    return _call(found[1], found[3]) | {"id": f"functions.{found[1]}:{found[2]}"}


_SEP = "<\uff5ctool\u2581sep\uff5c>"
_DEEPSEEK_CALL = re.compile(
    rf"\s*(?:function{_SEP}({NAME.pattern})\s*```json\n(.*)\n```|({NAME.pattern}){_SEP}(.*))\s*",
    re.DOTALL,
)


def _read_deepseek(text: str) -> dict[str, Any]:
    found = _DEEPSEEK_CALL.fullmatch(text)
    if found is None:
        raise FormatError(f"expected a name and arguments behind it, got {text[:80]!r}")
    return _call(found[1] or found[3], found[2] or found[4])


def _call(name: str, arguments: str) -> dict[str, Any]:
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"expected JSON as arguments of {name}, got {error}") from None
    if not isinstance(found, dict):
        raise FormatError(f"expected an object of arguments, got {arguments[:80]!r}")
    return _checked(call(name, found))


_THOUGHT = ("<think>", "</think>")
HERMES = Dialect(
    name="hermes",
    thought=_THOUGHT,
    call=("<tool_call>", "</tool_call>"),
    read=_read_hermes,
    before=lambda name: (f'\n{{"name": "{name}", "arguments": ',),
    after=("}\n", "</tool_call>"),
    between="\n",
)
PLAIN = Dialect(
    name="plain",
    thought=("~~", "~~"),
    call=("@", "\n"),
    read=_read_plain,
    before=lambda name: (f"{name} ",),
    between="\n",
    is_line=True,
)
KIMI_K2 = Dialect(
    name="kimi_k2",
    thought=_THOUGHT,
    section=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    call=("<|tool_call_begin|>", "<|tool_call_end|>"),
    read=_read_kimi,
    before=lambda name: (
        f"functions.{name}:",
        re.compile("[0-9]{1,2}"),
        "<|tool_call_argument_begin|>",
    ),
    after=("<|tool_call_end|>",),
)


def _deepseek_mark(name: str) -> str:
    return f"<\uff5ctool\u2581{name}\uff5c>"


DEEPSEEK = Dialect(
    name="deepseek",
    thought=_THOUGHT,
    section=(_deepseek_mark("calls\u2581begin"), _deepseek_mark("calls\u2581end")),
    call=(_deepseek_mark("call\u2581begin"), _deepseek_mark("call\u2581end")),
    read=_read_deepseek,
    before=lambda name: (name, _SEP),
    after=(_deepseek_mark("call\u2581end"),),
)
# The same with the words of V3 and R1.
DEEPSEEK_V3 = dataclasses.replace(
    DEEPSEEK,
    name="deepseek_v3",
    before=lambda name: ("function", _SEP, f"{name}\n```json\n"),
    after=("\n```", _deepseek_mark("call\u2581end")),
    between="\n",
)


def of(source: str) -> Dialect | None:
    """The dialect of a template, by the marks that it writes; None: calls are written otherwise."""
    if source == plain.TEMPLATE:
        return PLAIN
    if KIMI_K2.opening in source:
        return KIMI_K2
    if DEEPSEEK.opening in source:
        return DEEPSEEK_V3 if "```json" in source else DEEPSEEK
    # Others write <function=NAME> or <arg_key> inside the same mark.
    if HERMES.opening in source and not re.search("<function=|<arg_key>", source):
        return HERMES
    return None
