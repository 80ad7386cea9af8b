"""Loss on the target against tokens, a panel for each size and a line for each mixture."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.atlas import table
from kanana_jax.laws.errors import LawError
from kanana_jax.report import canvas
from kanana_jax.report.results import Run


@dataclass(frozen=True)
class LossOfTokens:
    """Means over seeds, with averaged weights."""

    name: str = "loss_of_tokens"

    def draw(self, runs: Sequence[Run], look: canvas.Look, /) -> canvas.Sketch | None:
        try:
            data = table.read(runs)
        except LawError:
            return None
        sizes, mixes = np.unique(data.size_P), list(dict.fromkeys(data.mix_P))
        colors = (*canvas.EMPHASIZED_COLORS, *canvas.OTHER_COLORS)
        figure, grid = canvas.panels(len(sizes))
        tokens_P = data.points.tokens.total_P
        for panel, size in zip(grid[0], sizes, strict=True):
            for number, mix in enumerate(mixes):
                is_here_P = (data.size_P == size) & (data.mix_P == mix)
                at_N = np.unique(tokens_P[is_here_P])
                loss_N = [data.loss_P[is_here_P & (tokens_P == one)].mean() for one in at_N]
                round_, color = divmod(number, len(colors))
                style = "--" if round_ else "-"
                panel.plot(at_N, loss_N, style, color=colors[color], label=mix, lw=1.4)
            panel.set(xlabel="tokens of all languages")
            canvas.title(panel, f"{size:,.0f} parameters")
        canvas.log_axis(grid[0], "x")
        canvas.log_axis(grid[0])
        grid[0, 0].set_ylabel("bits per byte of the target")
        lines, words = grid[0, 0].get_legend_handles_labels()
        figure.legend(lines, words, loc="outside upper left", ncols=4, frameon=False)
        return canvas.Sketch(
            "Loss on the target by mixture",
            "Where a mixture lies close to the target alone, its other text is nearly as good.",
            figure,
        )
