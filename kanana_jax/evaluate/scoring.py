"""Log-probabilities of given text, the basis of multiple choice, perplexity and bits per byte.

    ll(continuation | context) = sum_i log p(continuation_i | context, continuation_<i)

Letters: B sequences at a time, S tokens of a chunk.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from kanana_jax.checkpoint import CheckpointError
from kanana_jax.generate import decoder
from kanana_jax.generate.load import Loaded
from kanana_jax.generate.requests import RequestError


class Score(NamedTuple):
    loglikelihood: float  # natural logarithm
    is_greedy: bool  # whether each token of the continuation was the most likely one
    num_greedy: int = 0  # how many of them were


class Pair(NamedTuple):
    """Token ids, at least one in each part."""

    context: Sequence[int]
    continuation: Sequence[int]


class Scorer:
    """Scores `num_rows` pairs at a time, each of at most `length` tokens without its last."""

    def __init__(self, loaded: Loaded, *, num_rows: int = 8, length: int = 2048, chunk: int = 512):
        decoder.check_sizes(num_rows=num_rows, length=length, chunk=chunk)
        self.length = length
        self._loaded, self.num_rows, self._chunk = loaded, num_rows, chunk
        with decoder.on_mesh(loaded.mesh):
            self._cache = decoder.init_cache(loaded.cfg, loaded.execution, num_rows, length)

    def score(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, Score]]:
        """(place in `pairs`, its score), as they are found: long ones first.

        A context that is too long loses its beginning. RequestError when a continuation is
        longer than `length` or a part is empty.
        """
        for pair in pairs:
            if not len(pair.context) or not 0 < len(pair.continuation) <= self.length:
                raise RequestError(
                    f"expected a context and a continuation of 1 to {self.length} tokens, got "
                    f"{len(pair.context)} and {len(pair.continuation)}; cut longer text"
                )
        sizes = [len(pair.context) + len(pair.continuation) for pair in pairs]
        order = np.argsort(sizes, kind="stable")[::-1].tolist()
        for start in range(0, len(order), self.num_rows):
            places = order[start : start + self.num_rows]
            yield from zip(places, self._score_batch([pairs[p] for p in places]), strict=True)

    def _score_batch(self, pairs: list[Pair]) -> list[Score]:
        rows = [[*pair.context, *pair.continuation][-(self.length + 1) :] for pair in pairs]
        width = self._padded(max(map(len, rows)) - 1)
        tokens = np.zeros((self.num_rows, width + 1), np.int32)
        for place, row in enumerate(rows):
            tokens[place, : len(row)] = row
        logprobs, is_best = [], []
        for start in range(0, width, self._chunk):
            targets_BS = tokens[:, start + 1 : min(start + self._chunk, width) + 1]
            inputs_BS = tokens[:, start : start + targets_BS.shape[1]]
            with decoder.on_mesh(self._loaded.mesh):
                logprob_BS, best_BS, self._cache = decoder.score(
                    self._loaded.cfg,
                    self._loaded.execution,
                    self._loaded.weights,
                    self._cache,
                    inputs_BS,
                    np.full(self.num_rows, start, np.int32),
                    targets_BS,
                )
            logprobs.append(np.asarray(logprob_BS, np.float64))
            is_best.append(np.asarray(best_BS) == targets_BS)
        logprob, best = np.concatenate(logprobs, axis=1), np.concatenate(is_best, axis=1)
        scores = []
        for place, (pair, row) in enumerate(zip(pairs, rows, strict=True)):
            scored = slice(len(row) - 1 - len(pair.continuation), len(row) - 1)
            is_best_N = best[place, scored]
            total = float(logprob[place, scored].sum())
            scores.append(Score(total, bool(is_best_N.all()), int(is_best_N.sum())))
        return scores

    def _padded(self, num_tokens: int) -> int:
        """One of few widths, so that little is compiled: whole chunks or a power of two."""
        if num_tokens > self._chunk:
            return -(-num_tokens // self._chunk) * self._chunk
        return decoder.padded_chunk(num_tokens, self._chunk)


def windows(ids: Sequence[int], prefix: int, length: int) -> list[Pair]:
    """Cuts a text that begins after `prefix` into pairs that score each of its tokens once.

    Each has as much context as fits in `length`.
    """
    whole = [prefix, *ids]
    pairs = []
    for start in range(0, len(ids), length):
        end = min(start + length, len(ids))
        first = max(end - length, 0)
        pairs.append(Pair(whole[first : start + 1], list(ids[start:end])))
    return pairs


def prefix_id(loaded: Loaded) -> int:
    """The token after which a text without context is scored: bos, else eos.

    Raises CheckpointError where a checkpoint names neither.
    """
    for token in (loaded.tokenizer.bos_id, loaded.tokenizer.eos_id):
        if token is not None:
            return token
    raise CheckpointError(
        f"{loaded.directory} names no token that a text can begin after; add bos_token to "
        "tokenizer_config.json"
    )
