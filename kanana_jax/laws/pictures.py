"""What the commands of this package draw."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from kanana_jax.laws import token_axis
from kanana_jax.laws.recovery import TRUTH, Recovered
from kanana_jax.report import canvas


def transfer(
    proxies: token_axis.Proxies,
    found: token_axis.Optima,
    answer: token_axis.Extrapolation,
    path: Path,
) -> None:
    """Loss against rate at every budget, and the best rate against tokens with the law."""
    figure = Figure(figsize=(canvas.WIDTH_INCHES, 3.8), dpi=canvas.DPI, layout="constrained")
    of_rates, of_tokens = figure.subplots(1, 2)
    shades = np.linspace(0.25, 1.0, len(found.tokens_T))
    order_R = np.argsort(proxies.rate_R)
    for column, shade in enumerate(shades):
        color = (0.12, 0.33, 0.6, shade)
        of_rates.plot(proxies.rate_R[order_R], found.fitted_RT[order_R, column], color=color, lw=1)
        of_rates.plot(proxies.rate_R, proxies.loss_RT[:, column], ".", color=color, ms=4)
    of_rates.set(xlabel="learning rate", ylabel="loss")
    canvas.title(of_rates, "parabola of every budget, darker: more tokens")
    kept_T = found.is_bracketed_T
    of_tokens.plot(found.tokens_T[kept_T], found.rate_T[kept_T], "o", ms=4, label="best rate")
    tokens_N = np.geomspace(found.tokens_T[0], max(answer.tokens, found.tokens_T[-1]), 50)
    of_tokens.plot(tokens_N, answer.law.at(tokens_N), lw=1, label="law")
    if np.isfinite(answer.rate_band.low):
        low, high = answer.rate - answer.rate_band.low, answer.rate_band.high - answer.rate
        of_tokens.errorbar(
            [answer.tokens],
            [answer.rate],
            yerr=[[max(low, 0)], [max(high, 0)]],
            fmt="s",
            ms=4,
            capsize=3,
            label="target, 95 %",
        )
    of_tokens.set(xlabel="tokens", ylabel="best learning rate")
    canvas.log_axis([of_rates, of_tokens], "x")
    canvas.log_axis([of_tokens])
    of_tokens.legend(frameon=False)
    for axes in (of_rates, of_tokens):
        canvas.dress(axes)
    path.write_bytes(canvas.png(figure))


def recovery(found: Sequence[Recovered], path: Path) -> None:
    """Every fit next to the truth, a panel for each parameter."""
    names = [name for name in found[0].found if name not in ("A", "B")]
    columns = -(-len(names) // 2)
    figure = Figure(figsize=(canvas.WIDTH_INCHES, 5.0), dpi=canvas.DPI, layout="constrained")
    for number, name in enumerate(names, start=1):
        axes = figure.add_subplot(2, columns, number)
        for place, one in enumerate(found):
            found_D = one.found[name]
            spread_D = place + np.linspace(-0.15, 0.15, len(found_D))
            axes.plot(spread_D, found_D, ".", color="#1F5A99", ms=5)
        axes.axhline(TRUTH[name], color=canvas.INK, lw=0.8)
        axes.set_xticks(range(len(found)), [f"{one.sigma:g}" for one in found])
        axes.set_xlim(-0.6, len(found) - 0.4)
        canvas.title(axes, name)
        canvas.dress(axes)
    figure.supxlabel("noise of ln loss; the line is the truth", fontsize=9)
    path.write_bytes(canvas.png(figure))
