"""Files of a run of curation, each of them whole or absent.

OUT/plan.json                      what runs: another command in the same folder is refused
OUT/work/02-language/0003.jsonl    documents that a stage keeps; gone when the next has finished
OUT/work/02-language/0003.npz      its survey, until the stage has finished
OUT/work/02-language/0003.json     counts of the shard, written last
OUT/work/02-language/decision.json, done.json
OUT/dropped/02-language/0003.jsonl what it drops, and why
OUT/documents/0003.jsonl           what the last stage keeps
"""

import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kanana_jax.data import whole_files
from kanana_jax.data.curate import document
from kanana_jax.data.curate.document import Document
from kanana_jax.data.errors import DataError, first_line


class Folder:
    """The files of one stage."""

    def __init__(self, out: pathlib.Path, number: int, name: str):
        self.name = f"{number:02d}-{name}"
        self._work, self._dropped = out / "work" / self.name, out / "dropped" / self.name

    def kept(self, shard: int) -> pathlib.Path:
        return self._work / f"{shard:04d}.jsonl"

    def dropped(self, shard: int) -> pathlib.Path:
        return self._dropped / f"{shard:04d}.jsonl"

    def survey(self, shard: int) -> pathlib.Path:
        return self._work / f"{shard:04d}.npz"

    def counts(self, shard: int) -> pathlib.Path:
        return self._work / f"{shard:04d}.json"

    @property
    def decision(self) -> pathlib.Path:
        return self._work / "decision.json"

    @property
    def done(self) -> pathlib.Path:
        return self._work / "done.json"

    def clear_documents(self) -> None:
        """Deletes the documents of a stage that the next one has finished with."""
        for path in self._work.glob("[0-9]*.jsonl"):
            path.unlink()

    def clear_surveys(self) -> None:
        for path in self._work.glob("[0-9]*.npz"):
            path.unlink()


def write_lines(path: pathlib.Path, lines: Iterable[str]) -> None:
    with whole_files.written(path) as file:
        file.writelines(lines)


def read_documents(path: pathlib.Path) -> list[Document]:
    # Not splitlines, which knows further line ends.
    with open(path, encoding="utf-8", newline="\n") as file:
        return [document.of_line(line) for line in file]


def write_json(path: pathlib.Path, value: Any) -> None:
    with whole_files.written(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=1, sort_keys=True)
        file.write("\n")


def read_json(path: pathlib.Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_survey(path: pathlib.Path, survey: Mapping[str, np.ndarray]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_files.replaced(path) as unfinished, open(unfinished, "wb") as file:
            np.savez(file, **survey)  # pyright: ignore[reportArgumentType]
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {first_line(error)}; free space and run the command again."
        ) from error


def read_survey(path: pathlib.Path) -> Mapping[str, np.ndarray]:
    with np.load(path) as loaded:
        return dict(loaded)


def cut(documents: Iterable[Document], shard_bytes: int) -> Iterator[Sequence[Document]]:
    """Documents in order, in shards that each end with the one that fills them."""
    shard, size = [], 0
    for one in documents:
        shard.append(one)
        size += len(one.text.encode())
        if size >= shard_bytes:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard
