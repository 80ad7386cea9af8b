"""Losses of the runs of a grid, as `kanana_jax.laws` takes them.

A point is a reading along a run: held-out loss on the target's text, with averaged weights, after a
number of tokens of each source. The first of data.paths is the target, the next NUM_SOURCES have
weights of their own, and all further ones together are the others.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kanana_jax import config, model
from kanana_jax.jobs import heldout
from kanana_jax.laws import forms
from kanana_jax.laws.errors import LawError
from kanana_jax.report.results import Run

NUM_SOURCES = 2


class Table(NamedTuple):
    """P points."""

    points: forms.Points
    loss_P: np.ndarray  # bits per byte of the target
    run_P: np.ndarray
    seed_P: np.ndarray
    mix_P: np.ndarray  # the name of the mixture
    size_P: np.ndarray  # parameters without embedding and head
    state: str  # of the learning rate at the readings

    def part(self, keep_P: np.ndarray) -> "Table":
        """The table of the points in `keep_P`."""
        points = forms.Points(
            self.points.num_params_P[keep_P],
            type(self.points.tokens)(*(values[keep_P] for values in self.points.tokens)),
            self.points.num_languages_P[keep_P],
        )
        names = ("loss_P", "run_P", "seed_P", "mix_P", "size_P")
        return self._replace(points=points, **{x: getattr(self, x)[keep_P] for x in names})


def labels(runs: Sequence[Run]) -> list[str]:
    """The labels of all texts, the target first."""
    return heldout.labels(runs[0].config["data"]["paths"])


def read(runs: Sequence[Run]) -> Table:
    """The points of runs that did not diverge; readings begin after the first tenth of a run.

    LawError where no run was read.
    """
    names, rows = labels(runs), []
    for number, run in enumerate(run for run in runs if not run.diverged):
        steps_N, loss_N = run.series(f"heldout_bpb_{names[0]}_average")
        size = num_params(config.from_json(config.ModelConfig, run.config["model"]))
        mix, _, _ = run.arm.partition(", width ")
        amounts = [_amounts(run, label) for label in names]
        for at, (step, loss) in enumerate(zip(steps_N, loss_N, strict=True)):
            if step >= run.steps / 10:
                read_S = [tokens_N[at] for tokens_N, _ in amounts]
                unique_S = [unique for _, unique in amounts]
                rows.append((size, *read_S, *unique_S, loss, number, run.seed, mix))
    if not rows:
        raise LawError(f"no run was read on {names[0]}, by its averaged weights; all diverged?")
    columns = list(zip(*rows, strict=True))
    numbers = np.array(columns[:-1], float)
    read_SP, unique_SP = np.split(numbers[1:-3], 2)
    own = slice(1, 1 + NUM_SOURCES)
    points = forms.points(
        numbers[0],
        read_SP[0],
        sources_PS=read_SP[own].T,
        other_P=read_SP[own.stop :].sum(axis=0),
        unique_target=unique_SP[0],
        unique_sources=unique_SP[own].T,
        unique_other=unique_SP[own.stop :].sum(axis=0),
    )
    loss_P, run_P, seed_P = numbers[-3:]
    is_constant = all(run.config["optimizer"]["schedule"]["name"] == "constant" for run in runs)
    return Table(
        points,
        loss_P,
        run_P.astype(int),
        seed_P.astype(int),
        np.array(columns[-1]),
        numbers[0],
        "constant rate, average" if is_constant else "on a schedule",
    )


def _amounts(run: Run, label: str) -> tuple[np.ndarray, float]:
    """Tokens of a source read up to every reading, and the number of its unique tokens."""
    unique = float(run.series(f"unique_tokens_{label}").values_N[-1])
    return run.series(f"epochs_{label}").values_N * unique, unique


def num_params(shape: config.ModelConfig) -> float:
    """Without embedding and head, which a law of small models would otherwise be about."""
    total, _ = model.num_params(shape)
    tables = 1 if shape.tie_embeddings else 2
    return float(total - tables * shape.vocab_size * shape.hidden_size)
