"""Chat templates in Jinja, the dialect of Hugging Face transformers: messages to text.

Templates are foreign code and run in jinja2's sandbox. {% generation %} marks what the model
writes.
"""

import dataclasses
import datetime
import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

from kanana_jax.data.errors import first_line
from kanana_jax.errors import UserError

# Text has no NUL, so these are found again in what a template writes.
BEGIN, END = "\0<", "\0>"


class TemplateError(UserError, ValueError):
    """A conversation that a template refuses; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Template:
    """The source of a template and the special tokens that it names, bos_token and the like."""

    source: str
    special_tokens: Mapping[str, str]
    tool_source: str | None = None  # the template for conversations with tools, where it differs

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        is_marked: bool = False,
        **variables: Any,
    ) -> str:
        """The text of messages {"role", "content"}, up to where the assistant begins to answer.

        `variables` are further names that the template reads, enable_thinking and the like. A field
        of a message that is None counts as absent, except content: templates ask whether that is
        none. With `is_marked`, BEGIN and END stand around what {% generation %} marks. Raises
        TemplateError when the template refuses.
        """
        values = {"documents": None, **self.special_tokens, **variables}
        values |= {"tools": tools, "add_generation_prompt": add_generation_prompt}
        try:
            values["messages"] = [
                {k: value for k, value in message.items() if value is not None or k == "content"}
                for message in messages
            ]
            return compiled(self.source_for(tools), is_marked).render(values)
        except Exception as error:  # foreign code may raise anything
            raise TemplateError(
                f"the chat template refuses the messages: {first_line(error)}"
            ) from error

    def source_for(self, tools: Sequence[Mapping[str, Any]] | None) -> str:
        """The template that renders conversations with these tools."""
        return self.source if tools is None or self.tool_source is None else self.tool_source

    def reads(self, name: str) -> bool:
        """Whether a template names this variable."""
        word = re.compile(rf"\b{re.escape(name)}\b")
        return any(word.search(one) for one in (self.source, self.tool_source or ""))


class _Generation(jinja2.ext.Extension):
    """{% generation %}: its body is text like any other, or stands between BEGIN and END."""

    tags = {"generation"}  # noqa: RUF012
    around = ("", "")

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        first, last = (
            jinja2.nodes.Output([jinja2.nodes.TemplateData(mark)]) for mark in self.around
        )
        # What is set inside stays inside, as in transformers.
        return jinja2.nodes.Scope([first, *body, last], lineno=line)


class _MarkedGeneration(_Generation):
    around = (BEGIN, END)


@functools.lru_cache(maxsize=16)
def compiled(source: str, is_marked: bool = False) -> jinja2.Template:
    """The template, ready to render. Raises what jinja2 raises where it is not one."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[
            _MarkedGeneration if is_marked else _Generation,
            "jinja2.ext.loopcontrols",
        ],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(source)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter of transformers; its options can be positional."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
