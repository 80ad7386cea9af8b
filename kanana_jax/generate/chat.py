"""Chat templates: a conversation as one text, in the form that the model was trained on.

    chat_template.jinja, else chat_template of tokenizer_config.json, else of chat_template.json
    several by name: as a list in tokenizer_config.json, or additional_chat_templates/NAME.jinja

`kanana_jax.data.chat.template` renders them.
"""

from pathlib import Path

from kanana_jax.checkpoint import CheckpointError
from kanana_jax.checkpoint.errors import first_line, shown
from kanana_jax.data.chat import template as templates
from kanana_jax.data.chat.template import Template
from kanana_jax.data.chat.template import TemplateError as ChatError
from kanana_jax.generate import special_tokens
from kanana_jax.weights import hf_files

TEMPLATE_NAME = "chat_template.jinja"
CONFIG_NAME = special_tokens.CONFIG_NAME
_OLD_NAME = "chat_template.json"
_MORE_NAME = "additional_chat_templates"

__all__ = ["CONFIG_NAME", "TEMPLATE_NAME", "ChatError", "Template", "load", "no_template_message"]


def load(directory: Path) -> Template | None:
    """The template of a checkpoint, None where it has none; CheckpointError if unusable."""
    sources = _sources(directory)
    if "default" not in sources:
        return None
    for name, source in sources.items():
        try:
            templates.compiled(source)
        except Exception as error:  # jinja2's own, and Python's for what jinja2 lets through
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
