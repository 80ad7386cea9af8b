"""A fixture that opens small corpora."""

import dataclasses

import pytest
from small_corpora import SMALL, write_jsonl

from kanana_jax import data
from kanana_jax.config import DataConfig


@pytest.fixture
def open_text(tmp_path):
    """Opens sources given as lists of documents; each becomes a .jsonl file."""

    def build(*sources: list[str], **settings) -> tuple[data.Corpus, DataConfig]:
        paths = [write_jsonl(tmp_path / f"{i}.jsonl", texts) for i, texts in enumerate(sources)]
        cfg = dataclasses.replace(SMALL, paths=tuple(map(str, paths)), **settings)
        return data.open_corpus(cfg, tmp_path / "cache"), cfg

    return build
