"""A progress bar for one run or a sweep of runs.

    sweep = Sweep(num_runs=12)
    with sweep.run(3, "MuonClip lr 0.01", num_steps=200, tokens_per_step=2048) as bar:
        bar.start(0)
        bar.update(step, loss=1.93, max_logit=41.0)

A terminal or a notebook gets one bar per run; anything else (a file, a CI log) gets a plain line
every 10 s or 5 % of the run, whichever comes first.
"""

import importlib.util
import math
import sys
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

LINE_INTERVAL_S = 10.0
LINE_FRACTION = 0.05


@runtime_checkable
class Stream(Protocol):
    """What is needed of the file that a bar is drawn on."""

    def write(self, text: str, /) -> int: ...
    def flush(self) -> None: ...
    def isatty(self) -> bool: ...


class Silent:
    """A stream that shows nothing, for all processes but the first of several."""

    def write(self, text: str, /) -> int:
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


class Sweep:
    """Counts runs, so that each bar can also say when all of them will be done."""

    def __init__(
        self,
        num_runs: int = 1,
        *,
        file: Stream | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.num_runs = num_runs
        self.file = sys.stderr if file is None else file
        self.clock = clock
        self._started_s: float | None = None
        self._steps_done = 0

    def run(
        self,
        index: int,
        label: str,
        *,
        num_steps: int,
        tokens_per_step: int = 0,
    ) -> "Progress":
        """The bar of run `index` (from 1), to be started."""
        prefix = f"run {index}/{self.num_runs}  {label}" if self.num_runs > 1 else label
        return Progress(
            prefix,
            num_steps=num_steps,
            tokens_per_step=tokens_per_step,
            file=self.file,
            clock=self.clock,
            sweep=self if self.num_runs > 1 else None,
            later_steps=(self.num_runs - index) * num_steps,
        )

    def advance(self, num_steps: int) -> None:
        if self._started_s is None:  # what came before was mostly compilation
            self._started_s = self.clock()
        else:
            self._steps_done += num_steps

    def remaining_s(self, num_steps: int) -> float:
        """Time for `num_steps` more at the pace since the first report; NaN until the second."""
        if self._started_s is None or not self._steps_done:
            return math.nan
        return num_steps * (self.clock() - self._started_s) / self._steps_done


class Progress:
    """The bar of one run. `update` takes the number of steps done and what to show beside it."""

    def __init__(
        self,
        label: str,
        *,
        num_steps: int,
        tokens_per_step: int = 0,
        file: Stream | None = None,
        clock: Callable[[], float] = time.monotonic,
        sweep: Sweep | None = None,
        later_steps: int = 0,
    ):
        self._label = label
        self._num_steps = num_steps
        self._tokens_per_step = tokens_per_step
        self._file = sys.stderr if file is None else file
        self._clock = clock
        self._sweep = sweep
        self._later_steps = later_steps
        self._numbers, self._bar = "", None
        self._begin(0)

    def start(self, step: int) -> None:
        """Shows the bar; `step` steps were done by an earlier process."""
        self._begin(step)
        if in_notebook() or self._file.isatty():
            self._bar = self._open_bar()

    def _begin(self, step: int) -> None:
        self._start_step = self._step = self._line_step = step
        self._started_s = self._line_s = self._clock()

    def update(
        self,
        step: int,
        *,
        loss: float = math.nan,
        max_logit: float = math.nan,
        mfu: float = math.nan,
    ) -> None:
        """Shows that `step` steps are done, with the newest loss, max logit and MFU known."""
        if self._sweep is not None:
            self._sweep.advance(step - self._step)
        advance, self._step = step - self._step, step
        self._numbers = self._describe(loss, max_logit, mfu)
        if self._bar is not None:
            self._bar.set_postfix_str(self._numbers, refresh=False)
            self._bar.update(advance)
        elif self._is_line_due():
            self._print_line()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._step > self._line_step:
            self._print_line()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _open_bar(self):
        # Without widgets a notebook still shows the text bar.
        if in_notebook() and importlib.util.find_spec("ipywidgets"):
            from tqdm.notebook import tqdm
        else:
            from tqdm import tqdm
        return tqdm(
            desc=self._label,
            total=self._num_steps,
            initial=self._start_step,
            file=self._file,
            unit="step",
            dynamic_ncols=True,
            bar_format="{desc}  {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}",
        )

    def _is_line_due(self) -> bool:
        return (
            self._step >= self._num_steps
            or self._clock() - self._line_s >= LINE_INTERVAL_S
            or self._step - self._line_step >= LINE_FRACTION * self._num_steps
        )

    def _print_line(self) -> None:
        percent = 100 * self._step // max(self._num_steps, 1)
        line = f"{self._label}  {percent:3d}%  {self._step}/{self._num_steps}, {self._numbers}"
        print(line, file=self._file, flush=True)
        self._line_s, self._line_step = self._clock(), self._step

    def _describe(self, loss: float, max_logit: float, mfu: float) -> str:
        done = self._step - self._start_step
        pace_s = (self._clock() - self._started_s) / done if done else math.nan
        remaining_steps = self._num_steps - self._step
        parts = [f"ETA {duration(remaining_steps * pace_s)}"]
        if self._sweep is not None:
            remaining_s = self._sweep.remaining_s(remaining_steps + self._later_steps)
            parts.append(f"all {duration(remaining_s)}")
        if self._tokens_per_step and pace_s > 0:
            parts.append(f"{quantity(self._tokens_per_step / pace_s)} tokens/s")
        if math.isfinite(mfu):
            parts.append(f"MFU {mfu:.1%}")
        parts.append(f"loss {loss:.3f}")
        parts.append(f"max logit {max_logit:.1f}")
        return ", ".join(parts)


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel."""
    return "ipykernel" in sys.modules


def duration(seconds: float) -> str:
    """`1:02:03`, `02:03`, or `?` while unknown."""
    if not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute:02d}:{second:02d}"


def rate(lr: float) -> str:
    """A learning rate in few digits, and in all where few would be another rate's."""
    short = f"{lr:g}"
    return short if float(short) == lr else repr(float(lr))


def quantity(value: float) -> str:
    """Three digits and a unit: `54.2k`, `1.3M`."""
    for limit, divisor, unit in ((999.5, 1, ""), (999.5e3, 1e3, "k"), (999.5e6, 1e6, "M")):
        if value < limit:
            return f"{value / divisor:.3g}{unit}"
    return f"{value / 1e9:.3g}G"
