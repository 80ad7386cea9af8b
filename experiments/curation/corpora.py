"""The crawl at four depths of curation, made by the stages of `kanana_jax.data.curate`.

    raw  ->  dedup (exact, minhash)  ->  heuristics  ->  education

Each depth has all stages of those before it. FOLDER/NAME holds what
`python -m kanana_jax.data.curate` writes, with its report.
"""

import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from experiments.curation import crawl
from kanana_jax import data
from kanana_jax.config import DataConfig
from kanana_jax.data import template_text, whole_files
from kanana_jax.data.curate import document, duplicates, education, heuristics, running
from kanana_jax.data.curate.document import Document
from kanana_jax.rollouts import tasks

RAW, DEDUP, HEURISTICS, EDUCATION = DEPTHS = ("raw", "dedup", "heuristics", "education")
PROSE, KOREAN, KOREAN_SUMS = MEASURED = ("prose", "korean", "korean_sums")
PATHS = (*DEPTHS, *MEASURED)
_SIMILARITY, _MOST_DROPPED, _LEAST_LABEL = 0.7, 0.25, 3.0
_NUM_KOREAN, _NUM_KOREAN_SUMS = 2000, 1500


def read(cfg: DataConfig, cache_dir: pathlib.Path, report: Callable[[str], None]) -> Any:
    """The texts of `PATHS`, curated once and kept next to the tokens."""
    pages = crawl.pages()
    folder = cache_dir / f"curation-{crawl.digest(pages)}"
    make(pages, folder, report)
    streams = {name: functools.partial(_curated, folder, name) for name in DEPTHS}
    streams |= {PROSE: _prose, KOREAN: _korean, KOREAN_SUMS: _korean_sums}
    return data.read_text(cfg, cache_dir, report, streams)


def make(pages: Sequence[crawl.Page], folder: pathlib.Path, tell: Callable[[str], None]) -> None:
    """Curates pages to every depth; finished work stays."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = folder / "labels.jsonl"
    with whole_files.written(labels) as file:
        for one in pages:
            if one.is_labelled:
                line = {"text": one.text, "label": crawl.LABELS[one.kind]}
                file.write(json.dumps(line) + "\n")
    stages = [
        duplicates.exact(),
        duplicates.near(_SIMILARITY),
        heuristics.stage(_MOST_DROPPED),
        education.stage(str(labels), _LEAST_LABEL, None),
    ]
    inputs = {"crawl": crawl.digest(pages)}
    for name, count in zip(DEPTHS, (0, 2, 3, 4), strict=True):
        plan = running.Plan(inputs, lambda: _documents(pages), stages[:count], 4_000_000)
        running.run(plan, folder / name, num_workers=1, tell=tell)


def _documents(pages: Sequence[crawl.Page]) -> Iterator[Document]:
    return (document.of_text(one.text, one.kind)._replace(language="en") for one in pages)


def _curated(folder: pathlib.Path, name: str) -> Iterator[bytes]:
    # A corpus keeps equal documents of its sources once; line ends tell the depths apart.
    end = "\n" * DEPTHS.index(name)
    for path in sorted((folder / name / "documents").glob("*.jsonl")):
        for line in path.read_text().splitlines():
            yield (document.of_line(line).text + end).encode()


def _prose() -> Iterator[bytes]:
    return (text.encode() for text in crawl.measured_prose())


def _korean() -> Iterator[bytes]:
    documents = template_text.documents("ko", seed=0, count=_NUM_KOREAN)
    return (text.encode() for text in documents)


def _korean_sums() -> Iterator[bytes]:
    drawn = tasks.problems(crawl.SUMS, "ko", seed=7, count=_NUM_KOREAN_SUMS, heldout=False)
    return (text.encode() for text in tasks.documents(drawn, traces=1.0, seed=0))
