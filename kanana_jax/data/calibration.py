"""Text to look at a model's activations with: the first tokens of documents, a row each."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from kanana_jax.batch import Inputs
from kanana_jax.config import DataConfig
from kanana_jax.data import sources, wanted_tokenizer
from kanana_jax.data.errors import DataError

_ROWS = 8  # of a batch


def batches(folder: Path, text: DataConfig, num_samples: int, length: int) -> Iterator[Inputs]:
    """Documents of each source of `text` in turn, in the tokens of the model in `folder`.

    Ids of 0 pad rows, and all batches have one shape. DataError where a source cannot be read or
    no document is left.
    """
    path = folder / "tokenizer.json"
    name = str(path) if path.exists() else "bytes"
    cfg = dataclasses.replace(text, tokenizer=name)
    tokenizer = wanted_tokenizer.wanted_tokenizer(cfg).make(())
    opened = sources.open_sources(cfg)
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*(one.read() for one in opened)))
    documents = itertools.islice((one for one in in_turn if one), num_samples)
    rows = (tokenizer.encode_documents([one])[0][:length] for one in documents)
    is_empty = True
    while taken := list(itertools.islice(rows, _ROWS)):
        is_empty = False
        yield _padded(taken, length)
    if is_empty:
        raise DataError(
            f"expected documents to calibrate with, got none in {', '.join(text.paths)}"
        )


def _padded(rows: Sequence[np.ndarray], length: int) -> Inputs:
    tokens_BS = np.zeros((_ROWS, length), np.int32)
    segment_ids_BS = np.zeros((_ROWS, length), np.int32)
    for index, ids in enumerate(rows):
        tokens_BS[index, : len(ids)], segment_ids_BS[index, : len(ids)] = ids, 1
    return Inputs.of_tokens(tokens_BS)._replace(segment_ids=segment_ids_BS)
