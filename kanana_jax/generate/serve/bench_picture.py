"""The plot of a bench: time to first audio, real-time factor, underruns by number of listeners."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_PANELS = (
    ("Time to first audio, p50 (line) and p95 (dashes), ms", 1e3, ("ttfa_p50_s", "ttfa_p95_s")),
    ("Seconds of work per second of sound", 1.0, ("rtf",)),
    ("Underruns", 1.0, ("underruns",)),
)


def write(found: dict[str, Any], path: Path) -> None:
    """Writes a PNG of what `bench` found."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, len(_PANELS))
    for axis, (title, scale, names) in zip(axes, _PANELS, strict=True):
        for place, (arm, measured) in enumerate(found["arms"].items()):
            levels = measured["levels"]
            counts = [one["listeners"] for one in levels]
            for name, style in zip(names, ("-", "--"), strict=False):
                axis.plot(
                    counts,
                    [scale * one[name] for one in levels],
                    style,
                    marker="o",
                    color=f"C{place}",
                    label=arm if style == "-" else None,
                )
        axis.set_title(title, fontsize=10)
        axis.set_xscale("log", base=2)
        axis.set_xlabel("listeners at once")
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    axes[1].axhline(1.0, color="black", linewidth=0.8)
    axes[0].legend(fontsize=9)
    figure.savefig(path, dpi=120)
