"""Batches of what the model itself has written, collected in rounds, next to stored data.

    round r  =  batches r n, ..., r n + n - 1        collected by the weights before its first step
    row      =  of a round with probability `share`, else of the stored corpus

A round is on disk before a batch of it is made, and is read from there ever after, so a resumed run
trains on the same. `keeps` says whether the examples of earlier rounds stay.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kanana_jax import config, data, model, parallel
from kanana_jax.batch import Batch
from kanana_jax.data.whole_documents import Examples, WholeDocuments
from kanana_jax.rollouts import store
from kanana_jax.rollouts.store import Collected, Round
from kanana_jax.train import fit
from kanana_jax.workdir import events

SOURCE = "rollouts"  # the name of collected examples among the sources


class Plan(NamedTuple):
    """How rounds are made. `collect` is called by all processes together."""

    num_steps: int  # of a round
    share: float
    keeps: bool
    collect: Callable[[model.Weights, int], Round]


class RoundsSource:
    """See the module's head."""

    def __init__(
        self,
        corpus: WholeDocuments,
        cfg: config.DataConfig,
        stages: Sequence[data.Stage],
        directory: Path,
        plan: Plan,
    ):
        (only,) = stages
        self._corpus, self._cfg, self._rows = corpus, cfg, only.rows
        self._directory, self._plan = directory, plan
        self._last_round = (only.num_batches - 1) // plan.num_steps
        self._rounds: dict[int, Round] = {}
        self._mixed: tuple[int, WholeDocuments, config.DataConfig] | None = None
        self.fingerprint = corpus.fingerprint

    def batch(self, number: int, weights: model.Weights) -> Batch:
        # Batches that a rewind leaves out are made up for after the last round.
        index = min(number // self._plan.num_steps, self._last_round)
        for earlier in range(index) if self._plan.keeps else ():
            self._round(earlier, weights)
        self._round(index, weights)
        if self._mixed is None or self._mixed[0] != index:
            self._mixed = (index, *self._mix(index))
        _, documents, cfg = self._mixed
        return documents.train_batch(cfg, number, self._rows)

    def _round(self, index: int, weights: model.Weights) -> Round:
        if index not in self._rounds:
            found = store.read(self._directory, index)
            # Decided together: all processes have to be there to collect.
            if not all(parallel.everyones(found is not None)):
                found = self._plan.collect(weights, index)
                parallel.on_first(lambda: store.write(self._directory, index, found))
                self._report(index, found)
            assert found is not None
            self._rounds[index] = found
        return self._rounds[index]

    def _report(self, index: int, found: Round) -> None:
        words = ", ".join(f"{name} {value:.3g}" for name, value in found.figures.items())
        events.Events(self._directory).report(
            "collected", f"round {index + 1}: {len(found.examples)} examples; {words}"
        )

    def _mix(self, index: int) -> tuple[WholeDocuments, config.DataConfig]:
        """The corpus with what was collected as one more source, and the weights of all."""
        first = 0 if self._plan.keeps else index
        found = store.joined([self._rounds[k].examples for k in range(first, index + 1)])
        if not found:
            return self._corpus, self._cfg
        return mixed(self._corpus, self._cfg, found, self._plan.share)


def mixed(
    corpus: WholeDocuments, cfg: config.DataConfig, found: Sequence[Collected], share: float
) -> tuple[WholeDocuments, config.DataConfig]:
    """`corpus` with `found`, which gets `share` of the rows; and the settings that say so."""
    weights = cfg.weights or _sizes(corpus.examples)
    total = sum(weights)
    joint = corpus.joined_with(examples_of(found, source=len(corpus.names)), SOURCE)
    scaled = (*((1.0 - share) * weight / total for weight in weights), share)
    return joint, dataclasses.replace(cfg, paths=(*cfg.paths, SOURCE), weights=scaled)


def examples_of(found: Sequence[Collected], source: int) -> Examples:
    """What was collected as examples to train on, all of one source."""
    segments = [segment for one in found for segment in one.segments]
    return Examples(
        tokens_T=np.concatenate([np.asarray(one.ids) for one in segments]),
        origin_T=np.concatenate([np.asarray(one.origins, np.uint8) for one in segments]),
        ends_G=np.cumsum([len(one.ids) for one in segments], dtype=np.int64),
        source_N=np.full(len(found), source, np.int32),
        is_heldout_N=np.zeros(len(found), bool),
    )


def figures(directory: Path, every: int) -> fit.Evaluator:
    """The figures of a batch's round, under round_NAME; `every` is how many batches a round has.

    Later rounds of a killed process may be on disk already.
    """

    def of_batch(number: int) -> Mapping[str, float]:
        finished = (int(path.stem) for path in (directory / store.FOLDER).glob("*.json"))
        # Batches after the last round belong to it.
        index = max((one for one in finished if one <= (number - 1) // every), default=None)
        found = None if index is None else store.read(directory, index)
        return {f"round_{name}": value for name, value in found.figures.items()} if found else {}

    return fit.Evaluator("rounds", every, of_batch=of_batch)


def _sizes(examples: Examples) -> tuple[float, ...]:
    """Weights of sources that have none: as many rows as they have examples to train on."""
    kept_N = examples.source_N[~examples.is_heldout_N]
    return tuple(np.bincount(kept_N).astype(float))
