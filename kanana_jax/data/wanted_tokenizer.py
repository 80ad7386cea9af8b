"""The tokenizer that data.tokenizer asks for: "bytes", "bpe", or the path of a tokenizer.json."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from kanana_jax.config import DataConfig
from kanana_jax.data import files, tokenizer, utf8
from kanana_jax.data.errors import DataError


class WantedTokenizer(NamedTuple):
    """A tokenizer that may not exist yet."""

    identity: str  # equal if and only if the same train text makes the same tokenizer
    make: Callable[[Iterable[bytes]], tokenizer.Tokenizer]  # from the train text


def wanted_tokenizer(cfg: DataConfig) -> WantedTokenizer:
    """Reads all that the tokenizer needs except the train text. DataError if it cannot be used."""
    if cfg.tokenizer == "bytes":
        return WantedTokenizer("bytes", lambda texts: tokenizer.byte_tokenizer())
    if cfg.tokenizer == "bpe":
        size = cfg.bpe_vocab_size
        return WantedTokenizer(f"bpe-{size}", lambda texts: tokenizer.train_bpe(texts, size))
    loaded = _published(cfg.tokenizer)
    return WantedTokenizer(loaded.digest, lambda texts: loaded)


def _published(path: str) -> tokenizer.Tokenizer:
    try:
        file, *others = files.find(path)
        if others:
            raise DataError(f"it names {1 + len(others)} files.")
        with file.open() as opened:
            content = utf8.decode(opened.read(), path)
    except DataError as error:
        raise DataError(
            f'data.tokenizer: expected "bytes", "bpe" or the path of a tokenizer.json, '
            f"got {path!r}, which cannot be read: {error}"
        ) from error
    beside = {name: file.beside(name) for name in tokenizer.BESIDE}
    return tokenizer.from_json(content, path, **tokenizer.special_tokens(beside))
