"""Any chat template of Hugging Face as a format. What the model writes is found in its text:

by {% generation %}, where the template has it, else by differences. The text of k messages with the
generation prompt is a prefix of the text of k + 1 messages; what follows is the model's, up to and
including the token that ends the turn. Either way, the text of k messages must be a prefix of the
text of more messages.

All text is encoded with special tokens where it spells them, as servers encode it.
"""

import functools
import itertools
import re
from collections.abc import Sequence

from kanana_jax.data.chat import hermes, template
from kanana_jax.data.chat.format import Format
from kanana_jax.data.chat.messages import Message, Tool
from kanana_jax.data.chat.pieces import Origin, Piece
from kanana_jax.data.errors import DataError

_MARKS = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_SPECIAL = re.compile(r"<[^\s<>]{1,40}>(?=\s*$)")  # <|im_end|>, </s>, <end_of_turn>


def format_of(made: template.Template, name: str, *, is_last_only: bool = False) -> Format:
    """The format of a template; a turn is parsed as in hermes.

    With `is_last_only`, only the text after the last message of the user is the model's: for
    templates that write less of earlier turns. Raises DataError where the model's text is not
    found, or a tool is not written.
    """
    render = functools.partial(_render, made, name, is_last_only)
    return Format(
        name=name,
        render=lambda messages, tools, add_generation_prompt=False: render(
            messages, tools, add_generation_prompt
        ),
        parse=hermes.parse,
        template=made.source,
        is_foreign=True,
    )


def _render(
    made: template.Template,
    name: str,
    is_last_only: bool,
    messages: Sequence[Message],
    tools: Sequence[Tool],
    add_generation_prompt: bool,
) -> list[Piece]:
    def text(count: int, prompts: bool, is_marked: bool = False) -> str:
        try:
            return made.render(
                messages[:count],
                tools=tools or None,
                add_generation_prompt=prompts,
                is_marked=is_marked,
            )
        except template.TemplateError as error:
            raise DataError(f"data.chat_format: {name}: {error}.") from error

    first = _last_query(messages) if is_last_only else 0
    turns = [n for n, one in enumerate(messages) if one["role"] == "assistant" and n > first]
    whole = text(len(messages), add_generation_prompt)
    # With marks too: otherwise a prompt may differ from the text before a trained answer.
    spans = [_span(text, turn, name, whole, made.special_tokens) for turn in turns]
    if _MARKS.search(made.source_for(tools or None)):
        marked = text(len(messages), add_generation_prompt, is_marked=True)
        spans = [_marked(_marked_spans(marked), one, name, whole) for one in spans]
    cuts = [0, *itertools.chain.from_iterable(spans), len(whole)]
    origins = itertools.cycle([Origin.TEMPLATE, Origin.MODEL])
    pieces = [
        Piece(whole[begin:end], origin, is_mark=True)
        for (begin, end), origin in zip(itertools.pairwise(cuts), origins, strict=False)
    ]
    return [piece for piece in pieces if piece.text]


def _last_query(messages: Sequence[Message]) -> int:
    return max((n for n, one in enumerate(messages) if one["role"] == "user"), default=0)


def _span(text, turn: int, name: str, whole: str, special_tokens) -> tuple[int, int]:
    """Where in the text the model's part of a turn lies, with the token that ends it."""
    prompt, answered = text(turn, True), text(turn + 1, False)
    for shorter, longer in ((prompt, answered), (answered, whole)):
        if not longer.startswith(shorter):
            pairs = enumerate(itertools.zip_longest(shorter, longer))
            place = next(n for n, (one, other) in pairs if one != other)
            raise DataError(
                f"data.chat_format: expected {name} to write messages the same whatever follows "
                f"them, got {shorter[place : place + 40]!r} and then {longer[place : place + 40]!r}"
                f" behind {shorter[max(place - 40, 0) : place]!r}; take a template that keeps "
                "earlier turns, or set data.chat_reasoning to last or none."
            )
    said = answered[len(prompt) :]
    end = special_tokens.get("eos_token") or ""
    size = said.rfind(end) + len(end) if end and end in said else None
    if size is None and (found := _SPECIAL.search(said)):
        size = found.end()
    if size is None:
        raise DataError(
            f"data.chat_format: expected {name} to write a token that ends the assistant's turn, "
            f"got {said[-40:]!r}; without one a model does not learn to stop."
        )
    return len(prompt), len(prompt) + size


def _marked(
    spans: Sequence[tuple[int, int]], of_turn: tuple[int, int], name: str, whole: str
) -> tuple[int, int]:
    """The part of a turn that the template marks; it must end where the turn does."""
    begin, end = of_turn
    inside = [one for one in spans if begin <= one[0] < end]
    if len(inside) != 1 or inside[0][1] < end:
        got = [whole[slice(*one)] for one in inside] or "nothing"
        raise DataError(
            f"data.chat_format: expected {name} to mark by generation what the assistant says, up "
            f"to and with the token that ends its turn, {whole[begin:end][-60:]!r}, got "
            f"{got!r:.90}; mark it so in the template."
        )
    return inside[0]


def _marked_spans(marked: str) -> list[tuple[int, int]]:
    """Where the marks lie in the text without them."""
    spans, size = [], 0
    for part in marked.split(template.BEGIN):
        said, mark, rest = part.partition(template.END)
        if mark:
            spans.append((size, size + len(said)))
        size += len(said) + len(rest)
    return spans
