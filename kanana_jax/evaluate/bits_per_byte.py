"""Bits per byte of text, source by source: python -m kanana_jax.evaluate.bits_per_byte.

    bits per byte = -sum log2 p(token | document before it) / UTF-8 bytes of the documents

    --checkpoint=DIR --path=books.txt --path='wiki/*.jsonl'

Each --path is a source, as in `data.paths`. Documents are scored one by one from their beginning;
one longer than --length is cut into windows that each have as much context as fits. The token
that ends a document is not scored. Prints a JSON line per source, and one for all. Exit code 2: the
folder or the text cannot be used.
"""

import argparse
import json
import math
from collections.abc import Iterator
from typing import NamedTuple

from kanana_jax import config, errors, generate
from kanana_jax.data import sources
from kanana_jax.evaluate import scoring
from kanana_jax.generate import command

_PROGRAM = "kanana_jax.evaluate.bits_per_byte"
# Pairs sorted and scored together, for each row: more waste less padding and take more memory.
_PAIRS_PER_ROW = 16


class Total(NamedTuple):
    num_documents: int = 0
    num_bytes: int = 0
    num_tokens: int = 0
    loglikelihood: float = 0.0

    def plus(self, other: "Total") -> "Total":
        return Total(
            self.num_documents + other.num_documents,
            self.num_bytes + other.num_bytes,
            self.num_tokens + other.num_tokens,
            self.loglikelihood + other.loglikelihood,
        )

    @property
    def bits_per_byte(self) -> float:
        return -self.loglikelihood / math.log(2.0) / self.num_bytes if self.num_bytes else math.nan


def measure(loaded: generate.Loaded, scorer: scoring.Scorer, texts: Iterator[bytes]) -> Total:
    """Scores every document of `texts`, UTF-8 bytes."""
    total, pairs = Total(), []
    for text in texts:
        (ids,) = loaded.tokenizer.encode_batch([text])
        total = total.plus(Total(1, len(text), len(ids)))
        pairs += scoring.windows(ids.tolist(), scoring.prefix_id(loaded), scorer.length)
        if len(pairs) >= _PAIRS_PER_ROW * scorer.num_rows:
            total, pairs = total.plus(_score(scorer, pairs)), []
    return total.plus(_score(scorer, pairs))


def _score(scorer: scoring.Scorer, pairs: list[scoring.Pair]) -> Total:
    return Total(loglikelihood=sum(score.loglikelihood for _, score in scorer.score(pairs)))


def main(argv: list[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    with errors.reported(_PROGRAM):
        _measure_all(arguments)


def _measure_all(arguments: argparse.Namespace) -> None:
    what = config.DataConfig(
        paths=tuple(arguments.path), text_field=arguments.text_field, max_bytes=arguments.max_bytes
    )
    opened = sources.open_sources(what)
    loaded = command.load(arguments)
    scorer = scoring.Scorer(loaded, num_rows=arguments.batch_size, length=arguments.length)
    everything = Total()
    for source in opened:
        total = measure(loaded, scorer, source.read())
        everything = everything.plus(total)
        _show(source.name, total)
    _show("all", everything)


def _show(name: str, total: Total) -> None:
    line = {
        "source": name,
        "bits_per_byte": round(total.bits_per_byte, 6) if total.num_bytes else None,
        "documents": total.num_documents,
        "bytes": total.num_bytes,
        "tokens": total.num_tokens,
    }
    print(json.dumps(line), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = command.model_parser(_PROGRAM)
    parser.add_argument("--path", action="append", required=True, help="a source; may be repeated")
    parser.add_argument("--text-field", default="text", help="of JSON, Parquet and Arrow")
    parser.add_argument("--max-bytes", type=int, default=0, help="of each source; 0: all")
    parser.add_argument("--length", type=int, default=2048, help="longest context, tokens")
    parser.add_argument("--batch-size", type=int, default=8, help="windows scored at a time")
    return parser


if __name__ == "__main__":
    main()
