"""Batches of the tries of a round, each try in `epochs` of them, next to rows of stored data.

    round r  =  batches r n, ..., r n + n - 1        played by the weights before its first step
    n        =  epochs x tries of a round / rows of a batch that are tries

A round is on disk before a batch of it is made, and is read from there ever after. It holds the
tries to train on, those that are open, and which prompt comes next. So a run that goes on plays
nothing twice and loses nothing.

The columns of a batch are those of `rl_segments`, and `stored`: 1 on rows of stored data.
"""

from collections.abc import Callable, Sequence

import numpy as np

from kanana_jax import config, data, model, parallel
from kanana_jax.batch import Batch
from kanana_jax.config import RLConfig
from kanana_jax.data import packing
from kanana_jax.jobs import segment_rows
from kanana_jax.jobs.job import Built
from kanana_jax.jobs.rl_rounds import Rounds
from kanana_jax.rollouts import store
from kanana_jax.rollouts.store import Round
from kanana_jax.train import fit
from kanana_jax.workdir import events


def num_stored(cfg: RLConfig, batch_size: int) -> int:
    """The number of rows of a batch that come from stored data."""
    return round(cfg.stored_share * batch_size)


def steps_per_round(cfg: RLConfig, batch_size: int) -> int:
    """The steps of a round; raises ConfigError where it does not fill whole batches."""
    tries = cfg.rollouts.num_prompts * cfg.rollouts.num_samples
    rows = batch_size - num_stored(cfg, batch_size)
    if rows < 1 or tries % rows:
        raise config.ConfigError(
            f"rl: the tries of a round, {cfg.rollouts.num_prompts} prompts x "
            f"{cfg.rollouts.num_samples} samples, must fill batches of {rows} rows "
            f"(data.batch_size={batch_size} without {num_stored(cfg, batch_size)} of stored data); "
            "change one of them"
        )
    return cfg.epochs * tries // rows


class RolloutSource:
    """See the module's head."""

    def __init__(
        self,
        own: RLConfig,
        cfg: config.DataConfig,
        stages: Sequence[data.Stage],
        built: Built,
        rounds: Rounds,
        stored: Callable[[Sequence[data.Stage]], fit.Source],
    ):
        (only,) = stages
        self._own, self._cfg, self._rows, self._rounds = own, cfg, only.rows, rounds
        self._directory = built.directory
        self._objective, self._shape = built.objective, built.steps.cfg.model
        first = list(range(num_stored(own, cfg.batch_size)))
        self._stored = stored([only._replace(rows=first)])
        self._num_steps = steps_per_round(own, cfg.batch_size)
        self._last_round = (only.num_batches - 1) // self._num_steps
        self._found: tuple[int, Round] | None = None
        self.fingerprint = self._stored.fingerprint

    def batch(self, number: int, weights: model.Weights) -> Batch:
        # Batches that a rewind leaves out are made up for after the last round.
        index = min(number // self._num_steps, self._last_round)
        found = self._round(index, weights)
        made = self._rollouts(found, index, number - index * self._num_steps)
        if num_stored(self._own, self._cfg.batch_size):
            made = _joined(made, self._stored.batch(number, weights))
        return made if self._rows is None else made.map(lambda column: column[self._rows])

    def _round(self, index: int, weights: model.Weights) -> Round:
        if self._found is None or self._found[0] != index:
            found = store.read(self._directory, index)
            # Decided together: all processes have to be there to play.
            if not all(parallel.everyones(found is not None)):
                before = store.read(self._directory, index - 1) if index else None
                found = self._rounds.collect(weights, index, before)
                parallel.on_first(lambda: store.write(self._directory, index, found))
                self._report(index, found)
            assert found is not None
            self._found = (index, found)
        return self._found[1]

    def _report(self, index: int, found: Round) -> None:
        told = events.Events(self._directory).report
        words = ", ".join(f"{name} {value:.3g}" for name, value in found.figures.items())
        told("played", f"round {index + 1}: {len(found.examples)} tries; {words}")
        k3 = found.figures.get("mismatch_k3", 0.0)
        if k3 > self._own.max_mismatch:
            told(
                "mismatch",
                f"round {index + 1}: sampler and trainer differ by a k3 of {k3:.3g}, over "
                f"rl.max_mismatch={self._own.max_mismatch:g}; rl.routing=sampler, a rl.correction "
                "or a wider compute_dtype brings them nearer",
            )

    def _rollouts(self, found: Round, index: int, place: int) -> Batch:
        """The tries of batch `place` of a round."""
        num_rows = self._cfg.batch_size - num_stored(self._own, self._cfg.batch_size)
        per_epoch = self._num_steps // self._own.epochs
        epoch, part = divmod(place % self._num_steps, per_epoch)
        order = packing.random_permutation(per_epoch * num_rows, self._cfg.seed, index, epoch)
        chosen = order[part * num_rows : (part + 1) * num_rows].tolist()
        segments = [found.examples[i].segments[0] for i in chosen if i < len(found.examples)]
        made = segment_rows.batch_of(segments, num_rows, self._cfg.seq_len)
        made = segment_rows.only_drawn(made, segments)
        none = np.zeros(made.loss_mask.shape, np.float32)
        extra = {name: made.extra.get(name, none) for name in self._objective.columns}
        return made._replace(extra=extra, routes=self._routes(made))

    def _routes(self, made: Batch) -> np.ndarray | None:
        if not self._objective.replays_routes or made.routes is not None:
            return made.routes
        shape = self._shape.num_moe_layers, self._shape.num_experts_per_token
        return np.full((*made.tokens.shape, *shape), segment_rows.LIVE, np.int32)


def _joined(rollouts: Batch, stored: Batch) -> Batch:
    """Rows of tries, then rows of stored data, whose tokens go where the router sends them."""
    shape = stored.tokens.shape
    fill = {"stored": 1.0, "temperature": 1.0}
    extra = {name: np.full(shape, fill.get(name, 0.0), np.float32) for name in rollouts.extra}
    routes = rollouts.routes
    if routes is not None:
        routes = np.full((*shape, *routes.shape[2:]), segment_rows.LIVE, np.int32)
    return Batch.concatenated(rollouts, stored._replace(extra=extra, routes=routes))
