"""From text to batches: corpora, tokenizers, the token store, packing, and grain pipelines."""

from kanana_jax.data.batches import heldout_batches, train_batch, train_batches
from kanana_jax.data.corpus import Corpus, open_corpus
from kanana_jax.data.errors import DataError, StoreError
from kanana_jax.data.packing import Batch
from kanana_jax.data.tokenizer import Tokenizer

__all__ = [
    "Batch",
    "Corpus",
    "DataError",
    "StoreError",
    "Tokenizer",
    "heldout_batches",
    "open_corpus",
    "train_batch",
    "train_batches",
]
