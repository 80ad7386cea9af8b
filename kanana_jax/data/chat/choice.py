"""The format that data.chat_format names: a built-in one, or a template in a file or folder."""

import json
from collections.abc import Mapping

from kanana_jax.config import DataConfig
from kanana_jax.data import files, tokenizer, utf8
from kanana_jax.data.chat import foreign, hermes, plain, template
from kanana_jax.data.chat.format import Format
from kanana_jax.data.errors import DataError, first_line

_OWN = {one.name: one for one in (plain.PLAIN, hermes.HERMES)}
TEMPLATE_NAME = "chat_template.jinja"
_CONFIG_NAME = "tokenizer_config.json"


def own(source: str) -> Format | None:
    """The built-in format with this template, or with this variant of it for a tokenizer."""
    variants = {one.template: one for one in _OWN.values()}
    variants[hermes.template_with("eos_token")] = hermes.HERMES
    return variants.get(source)


def template_for(fmt: Format, used: tokenizer.Tokenizer) -> str:
    """The template of a model folder with this tokenizer."""
    is_hermes = fmt.template == hermes.TEMPLATE and used.token_id(fmt.end) is None
    return hermes.template_with("eos_token") if is_hermes else fmt.template


def chosen(cfg: DataConfig) -> Format:
    """The format that the settings name. DataError where its template cannot be used."""
    if cfg.chat_format in _OWN:
        return _OWN[cfg.chat_format]
    source, config = _read(cfg.chat_format)
    if own(source):
        return own(source)  # pyright: ignore[reportReturnType]
    try:
        template.compiled(source)
    except Exception as error:  # besides jinja2's own, Python's for what jinja2 lets through
        raise DataError(
            f"data.chat_format: {cfg.chat_format} holds no valid jinja ({first_line(error)})."
        ) from error
    tokens = _special_tokens(config) or _tokens_of(cfg)
    is_last_only = cfg.chat_reasoning == "last"
    made = template.Template(source, tokens)
    return foreign.format_of(made, cfg.chat_format, is_last_only=is_last_only)


def _read(path: str) -> tuple[str, Mapping]:
    """The template, and the fields of the tokenizer_config.json beside it."""
    names = [path] if path.endswith(".jinja") else [f"{path}/{TEMPLATE_NAME}"]
    names += [] if path.endswith(".jinja") else [f"{path}/{_CONFIG_NAME}"]
    error = None
    for name in names:
        try:
            (file,) = files.find(name)
        except DataError as failed:
            error = failed
            continue
        with file.open() as opened:
            content = utf8.decode(opened.read(), name)
        if name.endswith(".jinja"):
            return content, _fields(file.beside(_CONFIG_NAME), name)
        fields = _fields(content.encode(), name)
        if isinstance(fields.get("chat_template"), str):
            return fields["chat_template"], fields
    raise DataError(
        'data.chat_format: expected "plain", "hermes", a .jinja file or a folder with '
        f"{TEMPLATE_NAME} or a chat_template in {_CONFIG_NAME}, got {path!r}"
        + (f": {error}" if error else ".")
    ) from error


def _fields(content: bytes | None, name: str) -> dict:
    try:
        found = json.loads(content.decode("utf-8-sig")) if content else {}
    except ValueError as error:
        raise DataError(f"{name}: expected JSON in {_CONFIG_NAME}, got {error}.") from error
    return found if isinstance(found, dict) else {}


def _special_tokens(fields: Mapping) -> dict[str, str]:
    texts = {
        name: value.get("content") if isinstance(value, dict) else value
        for name, value in fields.items()
        if name.endswith("_token")
    }
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _tokens_of(cfg: DataConfig) -> dict[str, str]:
    """The special tokens of the tokenizer, for a template without a file that names them."""
    if cfg.tokenizer in ("bytes", "bpe"):
        return {"bos_token": tokenizer.BOS, "eos_token": tokenizer.EOS}
    (file, *_) = files.find(cfg.tokenizer)
    return _special_tokens(_fields(file.beside(_CONFIG_NAME), cfg.tokenizer))
