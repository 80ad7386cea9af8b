r"""The compact format for byte-level models, a line per message:

    tools: add(a,b) now()
    system: Be brief.
    user: What is 1 + 2?
    assistant: ~~a sum~~I ask.
    @add {"a":1,"b":2}<EOS>tool: 3
    assistant: 3<EOS>user: ...

The assistant's reasoning comes first, between ~~ and ~~; a call is a line of its own, at the end.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from kanana_jax.data.chat.format import Format, FormatError
from kanana_jax.data.chat.messages import NAME, Message, Tool, assistant, call
from kanana_jax.data.chat.pieces import Origin, Piece

_THOUGHT = "~~"
_PROMPT = Piece("assistant: ", Origin.TEMPLATE)
_CALL = re.compile(rf"@({NAME.pattern}) (\{{.*)", re.DOTALL)
_ORIGINS = {"tool": Origin.TOOL}  # all others: the user

TEMPLATE = (
    "{%- if bos_token and bos_token != eos_token %}{{- bos_token }}{%- endif %}"
    "{%- if tools %}{{- 'tools:' }}{%- for tool in tools %}"
    "{%- set about = tool.function.parameters or {} %}"
    "{{- ' ' + tool.function.name + '(' + (about.properties or {}) | join(',') + ')' }}"
    "{%- endfor %}{{- '\\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message.role != 'assistant' %}"
    "{{- message.role + ': ' + message.content + '\\n' }}"
    "{%- else %}{{- 'assistant: ' }}{%- generation %}"
    "{%- if message.reasoning_content %}"
    "{{- '~~' + message.reasoning_content + '~~' }}{%- endif %}"
    "{{- message.content }}"
    "{%- for call in message.tool_calls or [] %}"
    "{%- if message.content or not loop.first %}{{- '\\n' }}{%- endif %}"
    "{{- '@' + call.function.name + ' ' }}"
    "{{- call.function.arguments | tojson(separators=(',', ':')) }}"
    "{%- endfor %}{{- eos_token }}{%- endgeneration %}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'assistant: ' }}{%- endif %}"
)


def _render(
    messages: Sequence[Message], tools: Sequence[Tool], add_generation_prompt: bool = False
) -> list[Piece]:
    pieces = []
    if tools:
        listed = " ".join(map(_signature, tools))
        pieces = [
            Piece("tools: ", Origin.TEMPLATE),
            Piece(listed, Origin.USER),
            Piece("\n", Origin.TEMPLATE),
        ]
    for message in messages:
        if message["role"] == "assistant":
            pieces += [_PROMPT, Piece(_said(message), Origin.MODEL, is_closed=True)]
        else:
            origin = _ORIGINS.get(message["role"], Origin.USER)
            pieces += [
                Piece(f"{message['role']}: ", Origin.TEMPLATE),
                Piece(message["content"], origin),
                Piece("\n", Origin.TEMPLATE),
            ]
    return [*pieces, _PROMPT] if add_generation_prompt else pieces


def _signature(tool: Tool) -> str:
    function = tool["function"]
    names = (function.get("parameters") or {}).get("properties") or {}
    return f"{function['name']}({','.join(names)})"


def _said(message: Message) -> str:
    thought = message.get("reasoning_content")
    calls = [
        f"@{one['function']['name']} {_compact(one['function']['arguments'])}"
        for one in message.get("tool_calls") or ()
    ]
    said = [message["content"]] if message["content"] else []
    return (f"{_THOUGHT}{thought}{_THOUGHT}" if thought else "") + "\n".join([*said, *calls])


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _parse(text: str) -> Message:
    thought = ""
    if text.startswith(_THOUGHT):
        thought, mark, text = text.removeprefix(_THOUGHT).partition(_THOUGHT)
        if not mark:
            raise FormatError(
                f"expected {_THOUGHT!r} behind the reasoning, got the end of the turn"
            )
    lines = text.split("\n")
    places = [place for place, line in enumerate(lines) if _CALL.fullmatch(line)]
    first = places[0] if places else len(lines)
    calls = [call_of(line) for line in lines[first:]]
    return assistant("\n".join(lines[:first]), thought, calls)


def call_of(line: str) -> dict[str, Any]:
    """The call of a line; raises FormatError."""
    found = _CALL.fullmatch(line)
    if not found:
        raise FormatError(f"expected nothing but calls behind a call, got the line {line[:80]!r}")
    try:
        arguments = json.loads(found[2])
    except (ValueError, RecursionError) as error:
        raise FormatError(f"expected JSON behind @{found[1]}, got {error}") from None
    return call(found[1], arguments)


PLAIN = Format(name="plain", render=_render, parse=_parse, template=TEMPLATE)
