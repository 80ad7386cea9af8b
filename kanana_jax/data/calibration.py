"""Text to look at a model's activations with: the first tokens of documents, a row each."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from kanana_jax.batch import Inputs
from kanana_jax.config import DataConfig
from kanana_jax.data import sources, wanted_tokenizer
from kanana_jax.data.errors import DataError

_ROWS = 8  # of a batch


def batches(folder: Path, paths: Sequence[str], num_samples: int, length: int) -> Iterator[Inputs]:
    """Documents of each source in turn, in the tokens of the model in `folder`; 0 ids pad rows.

    All batches have one shape. DataError where a source cannot be read or no document is left.
    """
    path = folder / "tokenizer.json"
    cfg = DataConfig(paths=tuple(paths), tokenizer=str(path) if path.exists() else "bytes")
    tokenizer = wanted_tokenizer.wanted_tokenizer(cfg).make(())
    opened = sources.open_sources(cfg)
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*(one.read() for one in opened)))
    texts = itertools.islice((text for text in in_turn if text), num_samples)
    rows = (tokenizer.encode_documents([text])[0][:length] for text in texts)
    is_empty = True
    while taken := list(itertools.islice(rows, _ROWS)):
        is_empty = False
        yield _padded(taken, length)
    if is_empty:
        raise DataError(f"expected documents to calibrate with, got none in {', '.join(paths)}")


def _padded(rows: Sequence[np.ndarray], length: int) -> Inputs:
    tokens_BS = np.zeros((_ROWS, length), np.int32)
    segment_ids_BS = np.zeros((_ROWS, length), np.int32)
    for index, ids in enumerate(rows):
        tokens_BS[index, : len(ids)], segment_ids_BS[index, : len(ids)] = ids, 1
    return Inputs.of_tokens(tokens_BS)._replace(segment_ids=segment_ids_BS)
