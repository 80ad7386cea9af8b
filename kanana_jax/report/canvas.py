"""The look that all figures share: one colour per arm, panels per place, one legend.

A picture draws itself for some runs, or gives None where they have no data for it. Figures are
made with matplotlib's object interface; nothing here touches pyplot's global state.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from kanana_jax.report import results
from kanana_jax.report.metrics import Series
from kanana_jax.report.results import Place, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colour-blind safe palette (Color Universal Design, 2008), plus a grey; from the
# sixth on Tol's muted one. Blue is kept for emphasized arms, so that they are the same colour
# whatever else is in the figure.
EMPHASIZED_COLORS = ("#0072B2", "#56B4E9")
OTHER_COLORS = (
    "#8A8A8A", "#E69F00", "#CC79A7", "#009E73", "#D55E00",
    "#332288", "#882255", "#999933", "#661100", "#44AA99",
)  # fmt: skip
INK, FAINT = "#333333", "#D8D8D8"

# For arms named in scripts that matplotlib's own font lacks; only installed fonts are used.
FAMILIES = (
    "Noto Sans CJK KR", "Noto Sans KR", "Source Han Sans KR", "NanumGothic", "NanumBarunGothic",
    "Pretendard", "Malgun Gothic", "Apple SD Gothic Neo", "AppleGothic", "UnDotum", "Baekmuk Dotum",
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Microsoft YaHei", "PingFang SC", "Hiragino Sans",
    "WenQuanYi Zen Hei", "Arial Unicode MS",
)  # fmt: skip

WIDTH_INCHES = 12.0
DPI = 150
MAX_COLUMNS = 4


class Look(NamedTuple):
    """What a figure takes from the report that it is in."""

    colors: dict[str, str]  # by arm
    emphasized: frozenset[str] = frozenset()  # arms drawn with a wider line
    names: Mapping[str, str] = {}  # of axes that are not called by the last part of their path

    def line_width(self, arm: str) -> float:
        return 2.2 if arm in self.emphasized else 1.5

    def words(self, place: Place) -> str:
        return results.place_words(place, self.names)


class Sketch(NamedTuple):
    """What a picture has drawn."""

    title: str
    reading: str  # how to read it
    figure: "Figure"


@runtime_checkable
class Picture(Protocol):
    """What a report can show; `name` names its file."""

    @property
    def name(self) -> str: ...

    def draw(self, runs: Sequence[Run], look: Look, /) -> Sketch | None: ...


def nobody(run: Run) -> bool:
    """Emphasizes no arm."""
    return False


def look(
    runs: Sequence[Run],
    is_emphasized: Callable[[Run], bool] = nobody,
    names: Mapping[str, str] | None = None,
) -> Look:
    """A colour for every arm."""
    emphasized = frozenset(run.arm for run in runs if is_emphasized(run))
    palettes = {True: list(EMPHASIZED_COLORS), False: list(OTHER_COLORS)}
    colors = {}
    for arm in results.arms(runs):
        palette = palettes[arm in emphasized]
        colors[arm] = palette[0]
        palette.append(palette.pop(0))
    return Look(colors, emphasized, names or {})


def labels(arms: Sequence[str]) -> dict[str, str]:
    """What every arm is called in figures: its name, or "arm 2" where no font has its letters."""
    return {arm: _label(arm, number, arms) for number, arm in enumerate(arms, start=1)}


def _label(arm: str, number: int, arms: Sequence[str]) -> str:
    if all(ord(letter) in _drawable() for letter in arm):
        return plain(arm)
    label = f"arm {number}"
    while label in arms:
        label += "'"
    return label


def plain(name: str) -> str:
    """A name spelled so that matplotlib shows it as is: no formula, not left out of the legend."""
    shown = name.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def with_fonts():
    """A context in which text is drawn with the first font that has each letter."""
    import matplotlib

    return matplotlib.rc_context({"font.family": _families()})


@functools.cache
def _families() -> list[str]:
    from matplotlib import font_manager

    installed = set(font_manager.fontManager.get_font_names())
    return ["DejaVu Sans", *(name for name in FAMILIES if name in installed)]


@functools.cache
def _drawable() -> frozenset[int]:
    """The characters that some font of `_families` has."""
    from matplotlib import font_manager

    paths = {font_manager.findfont(name, fallback_to_default=False) for name in _families()}
    return frozenset().union(*(font_manager.get_font(path).get_charmap() for path in paths))


def num_columns(num_panels: int) -> int:
    """Panels side by side: as few rows as fit, filled evenly."""
    num_rows = -(-num_panels // MAX_COLUMNS)
    return -(-num_panels // num_rows)


def panels(
    num_panels: int, *, rows_per_panel: int = 1, panel_height: float = 3.0
) -> tuple["Figure", np.ndarray]:
    """A figure of panels, and its axes as an array (rows_per_panel, num_panels).

    All share the x axis, and those of one row of the array the y axis.
    """
    from matplotlib.figure import Figure

    columns = num_columns(num_panels)
    num_wraps = -(-num_panels // columns)
    height = 0.75 + panel_height * rows_per_panel * num_wraps
    width = WIDTH_INCHES if columns > 1 else 0.66 * WIDTH_INCHES
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(rows_per_panel * num_wraps, columns)
    table = np.empty((rows_per_panel, num_panels), dtype=object)
    for panel in range(num_panels):
        wrap, column = divmod(panel, columns)
        for row in range(rows_per_panel):
            axes = figure.add_subplot(
                grid[wrap * rows_per_panel + row, column], sharex=table[0, 0], sharey=table[row, 0]
            )
            dress(axes)
            axes.tick_params(labelleft=column == 0, labelbottom=row == rows_per_panel - 1)
            table[row, panel] = axes
    return figure, table


def log_axis(panels: Sequence["Axes"], name: Literal["x", "y"] = "y") -> None:
    """A logarithmic axis with plain numbers, three to a decade where there is room."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for panel in panels:
        panel.set(**{f"{name}scale": "log"})
        low, high = getattr(panel, f"get_{name}lim")()
        axis = getattr(panel, f"{name}axis")
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        if high / low < 3000:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_formatter(NullFormatter())


def dress(axes: "Axes") -> None:
    """Takes away what carries no information."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9A9A9A")
    axes.grid(axis="y", color="#ECECEC", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9, length=3, width=0.6)


def legend(figure: "Figure", runs: Sequence[Run], look: Look, extra: Iterable = ()) -> None:
    """One legend above all panels: a line per arm, and a cross when a run diverged."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=look.colors[arm], linewidth=2.4, label=arm)
        for arm in results.arms(runs)
    ]
    handles += list(extra)
    if any(run.diverged for run in runs):
        handles.append(
            Line2D([], [], color=INK, marker="x", markersize=7, linestyle="", label="diverged")
        )
    if len(handles) > 1:
        longest = max(len(str(one.get_label())) for one in handles)
        entry_inches = 0.6 + 0.08 * longest  # a line, and letters of 10 points
        figure.legend(
            handles=handles,
            loc="outside upper left",
            ncols=max(1, min(len(handles), int(figure.get_figwidth() / entry_inches))),
            frameon=False,
            fontsize=10,
            handlelength=1.6,
            columnspacing=1.8,
            labelcolor=INK,
        )


def title(axes: "Axes", words: str) -> None:
    axes.set_title(words, fontsize=10.5, loc="left", color=INK)


def over_seeds(
    series: Sequence[Series],
) -> tuple[
    Int[np.ndarray, "N"], Float[np.ndarray, "N"], Float[np.ndarray, "N"], Float[np.ndarray, "N"]
]:
    """Steps, mean, lowest and highest over the seeds that have a finite value at each step."""
    finite = [one.finite() for one in series]
    steps_N = np.unique(np.concatenate([one.steps_N for one in finite]))
    values_SN = np.full((len(finite), len(steps_N)), np.nan)
    for row_N, one in zip(values_SN, finite, strict=True):
        row_N[np.searchsorted(steps_N, one.steps_N)] = one.values_N
    present_SN = np.isfinite(values_SN)
    mean_N = np.where(present_SN, values_SN, 0.0).sum(0) / np.maximum(present_SN.sum(0), 1)
    low_N = np.where(present_SN, values_SN, np.inf).min(0, initial=np.inf)
    high_N = np.where(present_SN, values_SN, -np.inf).max(0, initial=-np.inf)
    return steps_N, mean_N, low_N, high_N


def smooth(series: Series, window: int) -> Series:
    """Mean over the last `window` records; the first records average what there is."""
    series = series.finite()
    total_N = np.cumsum(np.concatenate([[0.0], series.values_N]))
    last_N = np.arange(1, len(series.values_N) + 1)
    first_N = np.maximum(last_N - window, 0)
    return Series(series.steps_N, (total_N[last_N] - total_N[first_N]) / (last_N - first_N))


def png(figure: "Figure") -> bytes:
    """The figure as a PNG with a white background."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
