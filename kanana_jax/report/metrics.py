"""Metrics of one run: a line of JSON per step, mirrored to TensorBoard.

    metrics.jsonl    {"step": 7, "loss": 2.25, "max_logits": [[1.5, NaN], [0.5, 3.0]]}
    tensorboard/     the scalars of the same lines

Floats are written with the fewest digits that read back as the same float64, so nothing is rounded;
NaN and the infinities are spelled the way Python's json does. Letters: N recorded steps.
"""

import contextlib
import errno
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from jaxtyping import Int, Num

METRICS_NAME = "metrics.jsonl"
_TIMINGS = ("seconds", "goodput", "tokens_per_second", "model_tflops_per_second", "mfu")


class Series(NamedTuple):
    """One metric: the steps at which it was recorded, in order, and its values there."""

    steps_N: Int[np.ndarray, "N"]
    values_N: Num[np.ndarray, "N ..."]

    def finite(self) -> "Series":
        """The part of a scalar series that is neither NaN nor infinite."""
        kept_N = np.isfinite(self.values_N)
        return Series(self.steps_N[kept_N], self.values_N[kept_N])


def empty_series() -> Series:
    return Series(np.zeros(0, np.int64), np.zeros(0))


def is_timing(name: str) -> bool:
    """Whether a metric measures time, and so differs between runs that are equal otherwise."""
    return name in _TIMINGS or name.startswith("seconds_")


class MetricsWriter:
    """Appends to `<directory>/metrics.jsonl`, one line per step, steps increasing.

    A line is on disk as soon as it is written: a killed process loses at most the line it was
    writing, and opening the directory again drops that torn line. While the disk takes no lines,
    they wait in memory, `error` says why, and every write tries again; TensorBoard's mirror ends.
    """

    def __init__(self, directory: str | os.PathLike):
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._path = self._directory / METRICS_NAME
        self._events = None
        self._is_mirroring = True
        self._file = None
        self._waiting: list[tuple[int, bytes]] = []
        self.error: OSError | None = None
        self._keep(last=math.inf)

    @property
    def path(self) -> Path:
        return self._path

    @property
    def last_step(self) -> int | None:
        """The newest step in the file, None when there is none."""
        return self._last_step

    def truncate_after(self, step: int) -> None:
        """Drops what was recorded after `step`; call it when resuming from the state at `step`."""
        self._keep(last=step)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Records the metrics of one step: numbers, or arrays of numbers, NumPy's or JAX's."""
        if self._file is None:
            raise ValueError(f"MetricsWriter of {self._path} is closed; open a new one to write.")
        if self._last_step is not None and step <= self._last_step:
            raise ValueError(
                f"steps must increase: got step {step} after step {self._last_step} in "
                f"{self._path}; call truncate_after(step) when resuming."
            )
        record: dict[str, Any] = {"step": int(step)}
        record |= {key: _plain(key, value) for key, value in values.items() if key != "step"}
        self._waiting.append((record["step"], f"{json.dumps(record)}\n".encode()))
        self._last_step = record["step"]
        self._write_waiting()
        if self._is_mirroring:
            self._mirror(record)

    def close(self) -> None:
        """Raises OSError when lines still wait because the disk takes none."""
        if self._file is not None:
            self._write_waiting()
            self._file.close()
            self._file = None
        self._close_events()
        if self.error is not None:
            raise self.error

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _write_waiting(self) -> None:
        assert self._file is not None
        self.error = None
        while self._waiting and self.error is None:
            _, line = self._waiting[0]
            begin = os.fstat(self._file.fileno()).st_size
            try:
                if self._file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
                self._waiting.pop(0)
            except OSError as error:
                self.error = error
                os.truncate(self._path, begin)  # no torn line: it is written whole later

    def _keep(self, last: int | float) -> None:
        """Cuts the file after the last whole line whose step is at most `last`, and reopens it."""
        if self._file is not None:
            self._file.close()
        self._close_events()
        self._path.touch()
        length, self._last_step = 0, None
        with self._path.open() as lines:
            for line, step in _whole_lines(lines, self._path, parse=_step):
                # Steps increase, so what is kept is a prefix and one truncation suffices.
                if step > last:
                    break
                length += len(line)
                self._last_step = step
        os.truncate(self._path, length)
        self._waiting = [(step, line) for step, line in self._waiting if step <= last]
        if self._waiting:
            self._last_step = self._waiting[-1][0]
        self._file = self._path.open("ab", buffering=0)

    def _mirror(self, record: Mapping[str, Any]) -> None:
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore

        # The protocol buffer is built here because add_scalar logs a warning for every NaN.
        scalars = [
            Summary.Value(tag=key, simple_value=value)
            for key, value in record.items()
            if key != "step" and not isinstance(value, list)
        ]
        try:
            if self._events is None:
                self._open_events(first_step=record["step"])
            self._add_event(record["step"], summary=Summary(value=scalars))
        except OSError:
            self._is_mirroring = False
            self._close_events()

    def _open_events(self, first_step: int) -> None:
        # Not its FileWriter, whose thread dies of a full disk and leaves the caller waiting.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog  # pyright: ignore

        folder = self._directory / "tensorboard"
        folder.mkdir(exist_ok=True)
        # Files are named by the second; the suffix keeps a quick resume from overwriting one.
        self._events = EventsWriter(str(folder / "events"), f".from{first_step}")
        # Hides the events of an earlier process from this step on.
        self._add_event(first_step, file_version="brain.Event:2")
        self._add_event(first_step, session_log=SessionLog(status=SessionLog.START))

    def _add_event(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore

        assert self._events is not None
        self._events.write_event(Event(wall_time=time.time(), step=step, **content))

    def _close_events(self) -> None:
        if self._events is not None:
            with contextlib.suppress(OSError):
                self._events.close()
            self._events = None


def read_metrics(path: str | os.PathLike) -> dict[str, Series]:
    """Reads metrics.jsonl into one series per key; a key may be absent from some steps.

    A torn last line is left out. Raises ValueError for any other line that is not JSON and for a
    key whose arrays change shape.
    """
    path = Path(path)
    columns: dict[str, tuple[list[int], list[Any]]] = {}
    with path.open() as lines:
        for _, record in _whole_lines(lines, path, parse=json.loads):
            step = record.pop("step")
            for key, value in record.items():
                steps, values = columns.setdefault(key, ([], []))
                steps.append(step)
                values.append(value)
    return {key: _series(key, *column, path) for key, column in columns.items()}


def read_records(path: str | os.PathLike, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record of `step` and the newest one; {} where there is none."""
    path, kept, newest = Path(path), "{}", "{}"
    if path.exists():
        with path.open() as lines:
            for line, number in _whole_lines(lines, path, parse=_step):
                newest = line
                kept = line if number == step else kept
    return json.loads(kept), json.loads(newest)


def _series(key: str, steps: list[int], values: list[Any], path: Path) -> Series:
    try:
        values_N = np.array(values)
    except ValueError as error:
        raise ValueError(f"{key!r} in {path} must keep one shape at every step: {error}") from None
    return Series(np.array(steps, np.int64), values_N)


def _whole_lines(lines: TextIO, path: Path, parse: Callable) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.endswith("\n"):  # the writer was killed here
            return
        try:
            yield line, parse(line)
        except ValueError as error:
            raise ValueError(f"line {number} of {path} is not a record: {error}") from None


def _step(line: str) -> int:
    """The step of a line, without parsing the arrays after it."""
    match = re.match(r'\{"step": (-?\d+)[,}]', line)
    if match is None:
        raise ValueError(f'expected {{"step": ..., got {line[:40]!r}')
    return int(match[1])


def _plain(key: str, value: Any) -> Any:
    """Python numbers, nested in lists for an array."""
    array = np.asarray(value)
    if array.dtype.kind in "biu":
        return array.astype(np.int64).tolist()
    try:
        # float64 holds every float32, bfloat16 and float16 exactly.
        return array.astype(np.float64).tolist()
    except (TypeError, ValueError):
        raise ValueError(
            f"metrics must be numbers or arrays of numbers, got {value!r} for {key!r}."
        ) from None
