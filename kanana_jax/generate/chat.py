"""Chat templates: a conversation as the one text that the model was trained on.

    chat_template.jinja, else chat_template of tokenizer_config.json, else of chat_template.json
    several by name: as a list in tokenizer_config.json, or additional_chat_templates/NAME.jinja

The dialect is that of Hugging Face transformers. Templates are foreign code and run in jinja2's
sandbox.
"""

import dataclasses
import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

from kanana_jax.checkpoint import CheckpointError
from kanana_jax.checkpoint.errors import first_line, shown
from kanana_jax.errors import UserError
from kanana_jax.generate import special_tokens
from kanana_jax.weights import hf_files

TEMPLATE_NAME = "chat_template.jinja"
CONFIG_NAME = special_tokens.CONFIG_NAME
_OLD_NAME = "chat_template.json"
_MORE_NAME = "additional_chat_templates"


class ChatError(UserError, ValueError):
    """A conversation that cannot be rendered; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Template:
    """The source of a template and the special tokens that it names, bos_token and the like."""

    source: str
    special_tokens: Mapping[str, str]
    tool_source: str | None = None  # the template for conversations with tools, where it is another

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The text of messages {"role", "content"}, up to where the assistant begins to answer.

        `variables` are further names that the template reads, enable_thinking and the like. A field
        of a message that is None counts as absent, but for content: templates ask whether that is
        none. Raises ChatError when the template refuses.
        """
        source = self.source if tools is None or self.tool_source is None else self.tool_source
        values = {"documents": None, **self.special_tokens, **variables}
        values |= {"tools": tools, "add_generation_prompt": add_generation_prompt}
        try:
            values["messages"] = [
                {k: value for k, value in message.items() if value is not None or k == "content"}
                for message in messages
            ]
            return _compiled(source).render(values)
        except Exception as error:  # foreign code may raise anything
            raise ChatError(
                f"the chat template refuses the messages: {first_line(error)}"
            ) from error


def load(directory: Path) -> Template | None:
    """The template of a checkpoint, None where it has none; CheckpointError if unusable."""
    sources = _sources(directory)
    if "default" not in sources:
        return None
    for name, source in sources.items():
        try:
            _compiled(source)
        except Exception as error:  # beside jinja2's own, Python's for what jinja2 lets through
            raise CheckpointError(
                f"{directory}: the chat template {name!r} is no valid jinja ({first_line(error)}); "
                f"write another as {TEMPLATE_NAME}"
            ) from error
    tokens = {name: text for name, text in special_tokens.texts(directory).items() if text}
    return Template(sources["default"], tokens, sources.get("tool_use"))


def _sources(directory: Path) -> dict[str, str]:
    """Templates by name; "default" is the one without a name."""
    files = {path.stem: path for path in sorted((directory / _MORE_NAME).glob("*.jinja"))}
    files |= {"default": directory / TEMPLATE_NAME}
    named = _named(directory / CONFIG_NAME) or _named(directory / _OLD_NAME)
    return named | {name: hf_files.read_text(path) for name, path in files.items() if path.exists()}


def _named(path: Path) -> dict[str, str]:
    """The templates of a JSON file."""
    field = hf_files.read_json_if_there(path).get("chat_template")
    if field is None:
        return {}
    found = {}
    for one in field if isinstance(field, list) else [{"name": "default", "template": field}]:
        fields = one if isinstance(one, dict) else {}
        name, text = fields.get("name"), fields.get("template")
        if not (isinstance(name, str) and isinstance(text, str)):
            raise CheckpointError(
                f"{path}: chat_template must be text or a list of objects with name and template, "
                f"got {shown(one)}"
            )
        found[name] = text
    return found


def no_template_message(directory: Path) -> str:
    """What to say when a conversation is given to a checkpoint without a template."""
    return (
        f"{directory} has no chat template, neither {TEMPLATE_NAME} nor a default one as "
        f"chat_template in {CONFIG_NAME}; give plain prompts, or write the template that the model "
        "was trained with to the first"
    )


class _Generation(jinja2.ext.Extension):
    """{% generation %} marks what to train on; here its body is text like any other."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # What is set inside stays inside, as in transformers.
        return jinja2.nodes.Scope(body, lineno=line)


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, "jinja2.ext.loopcontrols"],
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
    """The filter of transformers, whose options can be given by place."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
