"""ChatML with the calls of Hermes, the format that Kanana-2, Qwen and vLLM use:

    <|im_start|>system      the system message, and the tools in <tools>...</tools>
    <|im_start|>user        what is asked; and results, each in <tool_response>...</tool_response>
    <|im_start|>assistant   <think>...</think>, the answer, and calls in <tool_call>...</tool_call>

Every block ends in <|im_end|> and a new line. The assistant's block is trained up to <|im_end|>.
Results that follow each other share a block. vLLM reads a turn with --tool-call-parser=hermes and
--reasoning-parser=deepseek_r1. Unlike Qwen's own template, this one writes the reasoning of every
message that has it; `data.chat_reasoning` decides which do.
"""

import json
from collections.abc import Sequence
from typing import Any

from kanana_jax.data.chat.format import Format, FormatError
from kanana_jax.data.chat.messages import Message, Tool, assistant, call
from kanana_jax.data.chat.pieces import Origin, Piece

END = "<|im_end|>"
# The words are part of the format: models were trained on them.
_BEFORE_TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_AFTER_TOOLS = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
_THINK, _THOUGHT = "<think>\n", "\n</think>\n\n"
_CALL, _CALLED = "<tool_call>\n", "\n</tool_call>"
_RESULT, _RESULT_END = "\n<tool_response>\n", "\n</tool_response>"

_SETS_END = "{%- set end = '<|im_end|>' %}"
TEMPLATE = (
    _SETS_END + "{%- if bos_token and bos_token != eos_token %}{{- bos_token }}{%- endif %}"
    "{%- set has_system = messages and messages[0].role == 'system' %}"
    "{%- if tools %}{{- '<|im_start|>system\\n' }}"
    "{%- if has_system %}{{- messages[0].content + '\\n\\n' }}{%- endif %}"
    f"{{{{- {_BEFORE_TOOLS!r} }}}}"
    "{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}"
    f"{{{{- {_AFTER_TOOLS!r} + end + '\\n' }}}}"
    "{%- elif has_system %}"
    "{{- '<|im_start|>system\\n' + messages[0].content + end + '\\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'assistant' %}{{- '<|im_start|>assistant\\n' }}{%- generation %}"
    "{%- if message.reasoning_content %}"
    "{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}{%- endif %}"
    "{{- message.content }}"
    "{%- for call in message.tool_calls or [] %}"
    "{%- if message.content or not loop.first %}{{- '\\n' }}{%- endif %}"
    '{{- \'<tool_call>\\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{- call.function.arguments | tojson }}{{- '}\\n</tool_call>' }}"
    "{%- endfor %}{{- end }}{%- endgeneration %}{{- '\\n' }}"
    "{%- elif message.role == 'tool' %}"
    "{%- if loop.first or loop.previtem.role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}"
    "{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}"
    "{%- if loop.last or loop.nextitem.role != 'tool' %}{{- end + '\\n' }}{%- endif %}"
    "{%- elif not (loop.first and has_system) %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + end + '\\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def template_with(end: str) -> str:
    """The twin for a tokenizer without <|im_end|>: `end` closes an assistant's turn, as trained."""
    sets_both = f"{{%- set of_model = {end} %}}" + _SETS_END
    return TEMPLATE.replace(_SETS_END, sets_both).replace(
        "{{- end }}{%- endgeneration %}", "{{- of_model }}{%- endgeneration %}"
    )


def _template(text: str) -> Piece:
    return Piece(text, Origin.TEMPLATE)


def _render(
    messages: Sequence[Message], tools: Sequence[Tool], add_generation_prompt: bool = False
) -> list[Piece]:
    rest, system = list(messages), []
    if rest and rest[0]["role"] == "system":
        system = [Piece(rest.pop(0)["content"], Origin.USER)]
    pieces = _system(system, tools)
    before = [None, *(one["role"] for one in rest)]
    after = [*before[2:], None]
    for message, last, following in zip(rest, before, after, strict=False):
        if message["role"] == "assistant":
            pieces += [_template("<|im_start|>assistant\n"), *_said(message), _template("\n")]
        elif message["role"] == "tool":
            pieces += [_template("<|im_start|>user")] if last != "tool" else []
            text = Piece(message["content"], Origin.TOOL)
            pieces += [_template(_RESULT), text, _template(_RESULT_END)]
            pieces += [_template(END + "\n")] if following != "tool" else []
        else:
            text = Piece(message["content"], Origin.USER)
            pieces += [_template(f"<|im_start|>{message['role']}\n"), text, _template(END + "\n")]
    return pieces + ([_template("<|im_start|>assistant\n")] if add_generation_prompt else [])


def _system(system: list[Piece], tools: Sequence[Tool]) -> list[Piece]:
    if not (system or tools):
        return []
    pieces = [_template("<|im_start|>system\n"), *system]
    if tools:
        pieces.append(_template("\n\n" * bool(system) + _BEFORE_TOOLS))
        for tool in tools:
            pieces += [_template("\n"), Piece(_json(tool), Origin.USER)]
        pieces.append(_template(_AFTER_TOOLS))
    return [*pieces, _template(END + "\n")]


def _said(message: Message) -> list[Piece]:
    def mark(text: str) -> Piece:
        return Piece(text, Origin.MODEL, is_mark=True)

    thought, content = message.get("reasoning_content"), message["content"]
    pieces = [mark(_THINK), Piece(thought, Origin.MODEL), mark(_THOUGHT)] if thought else []
    pieces += [Piece(content, Origin.MODEL)] if content else []
    for place, one in enumerate(message.get("tool_calls") or ()):
        name, arguments = one["function"]["name"], _json(one["function"]["arguments"])
        text = f'{{"name": "{name}", "arguments": {arguments}}}'
        begin = "\n" * bool(content or place) + _CALL
        pieces += [mark(begin), Piece(text, Origin.MODEL), mark(_CALLED)]
    pieces = pieces or [Piece("", Origin.MODEL)]
    return [*pieces[:-1], pieces[-1]._replace(is_closed=True)]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def parse(text: str) -> Message:
    """The message that vLLM's two parsers find, where they find the whole turn well-formed."""
    thought = ""
    # Some templates write <think> into the prompt, so that the model only ends it.
    if text.startswith("<think>") or "</think>" in text.partition("<tool_call>")[0]:
        thought, mark, text = text.partition("</think>")
        if not mark:
            raise FormatError("expected </think> behind the reasoning, got the end of the turn")
        thought = thought.removeprefix("<think>").removeprefix("\n").removesuffix("\n")
        text = text.removeprefix("\n").removeprefix("\n")
    content, mark, rest = text.partition("<tool_call>")
    calls = []
    while mark:
        one, rest = _call(rest)
        calls.append(one)
        between, mark, rest = rest.partition("<tool_call>")
        if between.strip():
            raise FormatError(f"expected nothing but calls behind a call, got {between[:80]!r}")
    return assistant(content.removesuffix("\n") if calls else content, thought, calls)


def _call(text: str) -> tuple[dict[str, Any], str]:
    """A call, and the text after its closing mark."""
    text = text.lstrip()
    try:
        _, size = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"expected JSON in <tool_call>, got {error}") from None
    _, mark, rest = text[size:].partition("</tool_call>")
    if not mark or text[size:].lstrip().find("</tool_call>"):
        raise FormatError(f"expected </tool_call> behind the JSON, got {text[size:][:80]!r}")
    return call_of(text[:size]), rest


def call_of(text: str) -> dict[str, Any]:
    """The call that stands between <tool_call> and </tool_call>; raises FormatError."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"expected JSON in <tool_call>, got {error}") from None
    if not isinstance(found, dict) or found.keys() != {"name", "arguments"}:
        raise FormatError(f"expected name and arguments in <tool_call>, got {text[:80]!r}")
    name, arguments = found["name"], found["arguments"]
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise FormatError(f"expected a name and an object of arguments, got {text[:80]!r}")
    return call(name, arguments)


HERMES = Format(name="hermes", render=_render, parse=parse, template=TEMPLATE, end=END)
