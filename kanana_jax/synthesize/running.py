"""A rephrasing run in a folder: answers as they come, results in the order of the input.

    OUT/answers.jsonl      every answer under the hash of its request, appended; never asked again
    OUT/documents.jsonl    rewrites that pass, in the order of documents and styles
    OUT/left_out.jsonl     rewrites with problems, and documents without an answer
    OUT/report.json        counts of both

The last three are written whole at the end of each run. A run that was killed goes on with the
answers that it has, and one that has all asks nothing.
"""

import collections
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import tqdm

from kanana_jax.data import whole_files
from kanana_jax.data.curate.document import Document
from kanana_jax.synthesize import batch, endpoints
from kanana_jax.synthesize.endpoints import ByModel, Endpoints
from kanana_jax.synthesize.records import Records
from kanana_jax.synthesize.rephrase import Rewritten, Settings, rephrase

ANSWERS = "answers.jsonl"


async def run(
    documents: Iterable[Document],
    settings: Settings,
    by_model: ByModel,
    out: pathlib.Path,
    *,
    prices: tuple[float, float] = (0.0, 0.0),
    shows_progress: bool = False,
) -> dict[str, Any]:
    """Returns the report. Prices are of a million tokens in and out. EndpointError ends it."""
    pairs = [(one, style) for one in documents for style in settings.styles]
    with (
        Records(out / ANSWERS) as records,
        whole_files.written(out / "documents.jsonl") as kept,
        whole_files.written(out / "left_out.jsonl") as left_out,
        tqdm.tqdm(total=len(pairs), unit="doc", disable=not shows_progress) as bar,
    ):
        report = _Report(prices)
        async with Endpoints(by_model, records) as opened:

            async def work(pair: tuple[Document, str]) -> Rewritten:
                return await rephrase(*pair, opened.ask, settings)

            # More than are asked at a time, so that a slow document does not hold up the rest.
            window = 4 * max(one.concurrency for one in by_model.values())
            async for one in batch.in_order(pairs, work, window=window):
                if one.is_usable:
                    kept.write(one.document().line(of=one.source.id, style=one.style))
                else:
                    left_out.write(json.dumps(one.to_json(), ensure_ascii=False) + "\n")
                report.add(one)
                bar.update()
                bar.set_postfix_str(report.progress(opened), refresh=False)
        found = report.to_json()
    with whole_files.written(out / "report.json") as file:
        json.dump(found, file, indent=1, sort_keys=True)
        file.write("\n")
    return found


class _Report:
    def __init__(self, prices: tuple[float, float]):
        self._prices = prices
        self._usable: collections.Counter[str] = collections.Counter()
        self._failed: collections.Counter[str] = collections.Counter()
        self._problems: collections.Counter[str] = collections.Counter()
        self._bytes = [0, 0]

    def add(self, one: Rewritten) -> None:
        self._usable[one.style] += one.is_usable
        self._failed[one.failure.partition(":")[0]] += bool(one.failure)
        self._problems.update({problem.kind for problem in one.problems})
        if one.is_usable:
            self._bytes[0] += len(one.source.text.encode())
            self._bytes[1] += len(one.text.encode())

    def progress(self, opened: Endpoints) -> str:
        usable = sum(self._usable.values())
        return f"{usable} pass, {endpoints.shown(opened.counts(), self._prices)}"

    def to_json(self) -> dict[str, Any]:
        """The same, however much came from the cache."""
        failed = {kind: count for kind, count in self._failed.items() if count}
        return {
            "usable": dict(self._usable),
            "failed": failed,
            "problems": dict(self._problems),
            "bytes_of_sources": self._bytes[0],
            "bytes_of_rewrites": self._bytes[1],
        }
