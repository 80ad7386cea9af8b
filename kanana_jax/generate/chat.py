"""Chat templates: a conversation as the one text that the model was trained on.

A checkpoint has its template as chat_template.jinja or as a field of tokenizer_config.json, in the
dialect of Hugging Face transformers. Templates are foreign code and run in jinja2's sandbox.
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
import jinja2.sandbox

from kanana_jax.checkpoint import CheckpointError
from kanana_jax.checkpoint.errors import first_line

TEMPLATE_NAME = "chat_template.jinja"
CONFIG_NAME = "tokenizer_config.json"


class ChatError(ValueError):
    """A conversation that cannot be rendered; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Template:
    """The source of a template and the special tokens that it names, bos_token and the like."""

    source: str
    special_tokens: Mapping[str, str]

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True
    ) -> str:
        """The text of messages {"role", "content"}, up to where the assistant begins to answer.

        Raises ChatError when the template refuses them.
        """
        try:
            return _compiled(self.source).render(
                messages=list(messages),
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **self.special_tokens,
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            raise ChatError(
                f"the chat template refuses the messages: {first_line(error)}"
            ) from error


def load(directory: Path) -> Template | None:
    """The template of a checkpoint, None where it has none; CheckpointError if unusable."""
    config_path = directory / CONFIG_NAME
    fields = json.loads(config_path.read_text(encoding="utf-8")) if config_path.exists() else {}
    source = fields.get("chat_template")
    if isinstance(source, list):  # several by name
        source = {one["name"]: one["template"] for one in source}.get("default")
    if (directory / TEMPLATE_NAME).exists():
        source = (directory / TEMPLATE_NAME).read_text(encoding="utf-8")
    if source is None:
        return None
    tokens = {
        name: value["content"] if isinstance(value, dict) else value
        for name, value in fields.items()
        if name.endswith("_token") and isinstance(value, str | dict)
    }
    try:
        _compiled(source)
    except jinja2.TemplateError as error:
        raise CheckpointError(
            f"{directory}: the chat template is no valid jinja ({first_line(error)}); "
            f"write another as {TEMPLATE_NAME}"
        ) from error
    return Template(source, tokens)


def no_template_message(directory: Path) -> str:
    """What to say when a conversation is given to a checkpoint without a template."""
    return (
        f"{directory} has no chat template, neither {TEMPLATE_NAME} nor chat_template in "
        f"{CONFIG_NAME}; give plain prompts, or write the template that the model was trained "
        "with to the first"
    )


class _Generation(jinja2.ext.Extension):
    """{% generation %} marks what to train on; here its body is text like any other."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


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


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
