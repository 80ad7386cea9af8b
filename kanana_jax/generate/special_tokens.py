"""Special tokens of a checkpoint as its own files name them; it has none that they do not name.

    end of a text         ids of generation_config.json, of config.json, else eos_token
    beginning of a text   bos_token, else ids of config.json, of generation_config.json
    around a prompt       add_bos_token, else the post-processor of tokenizer.json

bos_token and the like are text, in tokenizer_config.json or special_tokens_map.json.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kanana_jax.checkpoint import CheckpointError
from kanana_jax.checkpoint.errors import shown
from kanana_jax.data import tokenizer
from kanana_jax.weights import hf_files

CONFIG_NAME = "tokenizer_config.json"
_GENERATION_NAME = "generation_config.json"
_MODEL_NAME = "config.json"
_MAP_NAME = "special_tokens_map.json"


class SpecialTokens(NamedTuple):
    bos_id: int | None
    eos_ids: tuple[int, ...]
    before: tuple[int, ...]  # a prompt
    after: tuple[int, ...]


def is_described(directory: Path) -> bool:
    """Whether a file next to config.json describes special tokens."""
    return any((directory / name).exists() for name in (CONFIG_NAME, _GENERATION_NAME, _MAP_NAME))


def texts(directory: Path) -> dict[str, str | None]:
    """bos_token, eos_token and the like; None where a file says that there is none."""
    fields = hf_files.read_json_if_there(directory / _MAP_NAME)
    fields |= hf_files.read_json_if_there(directory / CONFIG_NAME)
    found = {}
    for name, value in fields.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str | None):
            found[name] = text
    return found


def read(
    directory: Path, config: Mapping[str, Any], used: tokenizer.Tokenizer, vocab_size: int
) -> SpecialTokens:
    """What the files of `directory` and the fields of its config.json say.

    A token that none of them names is that of `used`, if it has one. Raises CheckpointError for an
    id that the model does not have, and for a text that counts but is unknown to the tokenizer.
    """
    names = (_GENERATION_NAME, CONFIG_NAME)
    fields = {name: hf_files.read_json_if_there(directory / name) for name in names}
    files = _Files(directory, fields | {_MODEL_NAME: config}, texts(directory), used, vocab_size)
    bos_ids = files.bos_ids()[:1]
    return SpecialTokens(
        bos_ids[0] if bos_ids else None, files.eos_ids(), *files.around_prompts(bos_ids)
    )


@dataclasses.dataclass(frozen=True)
class _Files:
    """Ids are tuples of any length here; an empty one stands for a token that is not named."""

    directory: Path
    fields: Mapping[str, Mapping[str, Any]]  # by file
    texts: Mapping[str, str | None]
    used: tokenizer.Tokenizer
    vocab_size: int

    def eos_ids(self) -> tuple[int, ...]:
        name = "eos_token_id"
        found = self._ids(_GENERATION_NAME, name) or self._ids(_MODEL_NAME, name)
        found = found or self._ids_by_text("eos_token")
        if not found:
            self._check_not_unknown("eos_token")
        return found or _own(self.used.eos_id)

    def bos_ids(self) -> tuple[int, ...]:
        found = self._ids_by_text("bos_token")
        if found or self.texts.get("bos_token", "") is None:
            return found
        name = "bos_token_id"
        is_said = "bos_token" in self.texts or any(
            name in fields for fields in self.fields.values()
        )
        found = self._ids(_MODEL_NAME, name) or self._ids(_GENERATION_NAME, name)
        return found if is_said else _own(self.used.bos_id)

    def around_prompts(self, bos_ids: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        before, after = self.used.around
        adds_bos = self.fields[CONFIG_NAME].get("add_bos_token")
        if not isinstance(adds_bos, bool | None):
            raise CheckpointError(
                f"{self.directory / CONFIG_NAME}: add_bos_token must be true or false, got "
                f"{shown(adds_bos)}"
            )
        if adds_bos and not bos_ids:
            self._check_not_unknown("bos_token")
            raise CheckpointError(
                f"{self.directory / CONFIG_NAME}: add_bos_token is true and no file names the "
                "token; add bos_token"
            )
        if adds_bos is None and self.used.bos_id is not None:
            adds_bos = True  # as in training: only tokenizers of this package have one of their own
        if adds_bos is None:
            return before, after
        others = tuple(one for one in before if one not in bos_ids)
        return (bos_ids + others if adds_bos else others), after

    def _ids(self, file: str, name: str) -> tuple[int, ...]:
        value = self.fields[file].get(name)
        found = [] if value is None else value if isinstance(value, list) else [value]
        for one in found:
            if type(one) is not int or not 0 <= one < self.vocab_size:
                raise CheckpointError(
                    f"{self.directory / file}: {name} must be a token's id below "
                    f"{self.vocab_size} or a list of them, got {shown(value)}"
                )
        return tuple(found)

    def _ids_by_text(self, name: str) -> tuple[int, ...]:
        found = self.used.token_id(self.texts.get(name) or "")
        return () if found is None or found >= self.vocab_size else (found,)

    def _check_not_unknown(self, name: str) -> None:
        if self.texts.get(name):
            raise CheckpointError(
                f"{self.directory}: {name} is {shown(self.texts[name])}, which the tokenizer does "
                "not have; put the model's own tokenizer.json there"
            )


def _own(token: int | None) -> tuple[int, ...]:
    return () if token is None else (token,)
