"""A progress bar for one run or a sweep of runs.

    sweep = Sweep(num_runs=12)
    with sweep.run(3, "MuonClip lr 0.01", num_steps=200, tokens_per_step=2048) as bar:
        bar.start(0)
        bar.update(step, loss=1.93, max_logit=41.0)

A terminal or a notebook gets one bar per run; anything else (a file, a CI log) gets a plain line
every 10 s or 5 % of the run, whichever comes first.
"""

import importlib.util
import itertools
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

LINE_INTERVAL_S = 10.0
LINE_FRACTION = 0.05


@runtime_checkable
class Stream(Protocol):
    """What a bar needs from the file that it is drawn on."""

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


class Stage(NamedTuple):
    """Steps of a run that take equally long."""

    name: str
    num_steps: int
    tokens_per_step: int


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
        self._done = 0

    def run(
        self,
        index: int,
        label: str,
        *,
        num_steps: int,
        tokens_per_step: int = 0,
        stages: Sequence[Stage] = (),
        file: Stream | None = None,
    ) -> "Progress":
        """The bar of run `index` (from 1), to be started; it may have a `file` of its own."""
        prefix = f"run {index}/{self.num_runs}  {label}" if self.num_runs > 1 else label
        return Progress(
            prefix,
            num_steps=num_steps,
            tokens_per_step=tokens_per_step,
            stages=stages,
            file=file or self.file,
            clock=self.clock,
            sweep=self if self.num_runs > 1 else None,
            later_runs=self.num_runs - index,
        )

    def advance(self, amount: int) -> None:
        """Notes that `amount` more is done, in tokens or steps."""
        if self._started_s is None:  # what came before was mostly compilation
            self._started_s = self.clock()
        else:
            self._done += amount

    def remaining_s(self, amount: int) -> float:
        """Time for `amount` more at the pace since the first report; NaN until the second."""
        if self._started_s is None or not self._done:
            return math.nan
        return amount * (self.clock() - self._started_s) / self._done


class Progress:
    """The bar of one run. `update` takes the number of steps done and what to show beside it."""

    def __init__(
        self,
        label: str,
        *,
        num_steps: int,
        tokens_per_step: int = 0,
        stages: Sequence[Stage] = (),
        file: Stream | None = None,
        clock: Callable[[], float] = time.monotonic,
        sweep: Sweep | None = None,
        later_runs: int = 0,
    ):
        self._label = label
        self._num_steps = num_steps
        self._stages = tuple(stages) or (Stage("", num_steps, tokens_per_step),)
        self._counts_tokens = all(stage.tokens_per_step for stage in self._stages)
        self._file = sys.stderr if file is None else file
        self._clock = clock
        self._sweep = sweep
        self._later_amount = later_runs * self._amount(num_steps)
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
            self._sweep.advance(self._amount(step) - self._amount(self._step))
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
        done = f"{percent:3d}%  {self._step}/{self._num_steps}"
        line = f"{self._label}  {done}, {self._numbers}"
        print(line, file=self._file, flush=True)
        self._line_s, self._line_step = self._clock(), self._step

    def _describe(self, loss: float, max_logit: float, mfu: float) -> str:
        done = self._amount(self._step) - self._amount(self._start_step)
        pace_s = (self._clock() - self._started_s) / done if done else math.nan
        remaining = self._amount(self._num_steps) - self._amount(self._step)
        parts = [f"ETA {duration(remaining * pace_s)}"]
        if self._sweep is not None:
            remaining_s = self._sweep.remaining_s(remaining + self._later_amount)
            parts.append(f"all {duration(remaining_s)}")
        if len(self._stages) > 1:
            parts.insert(0, self._stage_words())
        if self._counts_tokens and pace_s > 0:
            parts.append(f"{quantity(1 / pace_s)} tokens/s")
        if math.isfinite(mfu):
            parts.append(f"MFU {mfu:.1%}")
        parts.append(f"loss {loss:.3f}")
        parts.append(f"max logit {max_logit:.1f}")
        return ", ".join(parts)

    def _amount(self, step: int) -> int:
        """What the first `step` steps come to: tokens, or steps where tokens are not known."""
        if not self._counts_tokens:
            return step
        amount = 0
        for stage in self._stages:
            amount += min(step, stage.num_steps) * stage.tokens_per_step
            step -= min(step, stage.num_steps)
        return amount

    def _stage_words(self) -> str:
        ends = list(itertools.accumulate(stage.num_steps for stage in self._stages))
        index = next((i for i, end in enumerate(ends) if self._step <= end), len(ends) - 1)
        return f"stage {index + 1}/{len(ends)} {self._stages[index].name}"


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
    """A learning rate in few digits, or in all where few would give another rate."""
    short = f"{lr:g}"
    return short if float(short) == lr else repr(float(lr))


def quantity(value: float) -> str:
    """Three digits and a unit: `54.2k`, `1.3M`."""
    for limit, divisor, unit in ((999.5, 1, ""), (999.5e3, 1e3, "k"), (999.5e6, 1e6, "M")):
        if value < limit:
            return f"{value / divisor:.3g}{unit}"
    return f"{value / 1e9:.3g}G"
