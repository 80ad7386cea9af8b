"""Special tokens of a checkpoint as its own files name them; what none names, it does not have.

    end of a text         ids of generation_config.json, of config.json, else eos_token
    beginning of a text   bos_token, else ids of config.json, of generation_config.json
    around a prompt       add_bos_token, else the post-processor of tokenizer.json

bos_token and the like are text, in tokenizer_config.json or special_tokens_map.json.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kanana_jax.checkpoint import CheckpointError, hf_files
from kanana_jax.checkpoint.errors import shown
from kanana_jax.data import tokenizer

CONFIG_NAME = "tokenizer_config.json"
_GENERATION_NAME = "generation_config.json"
_MAP_NAME = "special_tokens_map.json"


class SpecialTokens(NamedTuple):
    bos_id: int | None
    eos_ids: tuple[int, ...]
    before: tuple[int, ...]  # a prompt
    after: tuple[int, ...]


def is_described(directory: Path) -> bool:
    """Whether a file beside config.json speaks of special tokens."""
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
    """What the files of `directory` say, and the fields of its config.json.

    Where none names a token it is that of `used`, if that has one. Raises CheckpointError on an id
    that the model does not have, and on a text that the tokenizer does not know and that counts.
    """
    generation = hf_files.read_json_if_there(directory / _GENERATION_NAME)
    named = texts(directory)

    def ids(where: str, fields: Mapping[str, Any], name: str) -> tuple[int, ...]:
        value = fields.get(name)
        found = [] if value is None else value if isinstance(value, list) else [value]
        for one in found:
            if type(one) is not int or not 0 <= one < vocab_size:
                raise CheckpointError(
                    f"{directory / where}: {name} must be a token's id below {vocab_size} or a "
                    f"list of them, got {shown(value)}"
                )
        return tuple(found)

    def by_text(name: str) -> tuple[int, ...]:
        found = used.token_id(named.get(name) or "")
        return () if found is None or found >= vocab_size else (found,)

    eos_ids = (
        ids(_GENERATION_NAME, generation, "eos_token_id")
        or ids("config.json", config, "eos_token_id")
        or by_text("eos_token")
    )
    if not eos_ids:
        _check_not_unknown(directory, "eos_token", named)
        eos_ids = _own(used.eos_id)
    bos_ids = by_text("bos_token")
    if not bos_ids and named.get("bos_token", "") is not None:
        bos_ids = ids("config.json", config, "bos_token_id") or ids(
            _GENERATION_NAME, generation, "bos_token_id"
        )
    if not (bos_ids or "bos_token" in named or "bos_token_id" in config.keys() | generation.keys()):
        bos_ids = _own(used.bos_id)
    before, after = _around(directory, bos_ids[:1], used, named)
    return SpecialTokens(bos_ids[0] if bos_ids else None, eos_ids, before, after)


def _around(
    directory: Path,
    bos_ids: tuple[int, ...],
    used: tokenizer.Tokenizer,
    named: Mapping[str, str | None],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    before, after = used.around
    adds_bos = hf_files.read_json_if_there(directory / CONFIG_NAME).get("add_bos_token")
    if adds_bos is None:
        # A tokenizer with a beginning of its own is one that this package trains with.
        adds_bos = True if used.bos_id is not None and bos_ids else None
    elif not isinstance(adds_bos, bool):
        raise CheckpointError(
            f"{directory / CONFIG_NAME}: add_bos_token must be true or false, got {shown(adds_bos)}"
        )
    elif adds_bos and not bos_ids:
        _check_not_unknown(directory, "bos_token", named)
        raise CheckpointError(
            f"{directory / CONFIG_NAME}: add_bos_token is true and no file names the token; add "
            "bos_token"
        )
    if adds_bos is None or (adds_bos and before[:1] == bos_ids):
        return before, after
    others = tuple(one for one in before if one not in bos_ids)
    return (bos_ids + others if adds_bos else others), after


def _check_not_unknown(directory: Path, name: str, named: Mapping[str, str | None]) -> None:
    if named.get(name):
        raise CheckpointError(
            f"{directory}: {name} is {shown(named[name])}, which the tokenizer does not have; put "
            "the model's own tokenizer.json there"
        )


def _own(token: int | None) -> tuple[int, ...]:
    return () if token is None else (token,)
