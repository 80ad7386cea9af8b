"""Tasks tried by the model in training: those of a round, and held-out ones that measure it."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from kanana_jax import config, model, parallel
from kanana_jax.batch import Batch
from kanana_jax.config import RolloutConfig
from kanana_jax.data import Tokenizer, chat, packing
from kanana_jax.evaluate import success as success_of
from kanana_jax.jobs import likelihood, sampling
from kanana_jax.jobs.job import Built, Job, measuring
from kanana_jax.rollouts import audit, episodes, sandbox, store, transcripts
from kanana_jax.rollouts import groups as groups_lib
from kanana_jax.rollouts.environments import drawing, families
from kanana_jax.rollouts.episodes import Episode
from kanana_jax.rollouts.task import Task
from kanana_jax.train import fit

_GREEDY = 0.0


class Playing:
    """Tries of tasks under given weights. The same weights and round give the same tries."""

    def __init__(
        self, cfg: RolloutConfig, of_data: config.DataConfig, tokenizer: Tokenizer, built: Built
    ):
        self.tokenizer, self.form = tokenizer, chat.chosen(of_data)
        self.length = of_data.seq_len  # ids of an episode
        self.directory = built.directory
        self._cfg, self._built, self._batch_size = cfg, built, of_data.batch_size
        self._seed = cfg.seed + of_data.seed
        self._tasks_of = functools.lru_cache(maxsize=2)(self.tasks)

    def tasks(self, index: int) -> list[Task]:
        """The tasks of round `index`: new ones in every round, none of them held out."""
        return self._drawn(seed=_seed_of(self._seed, index), heldout=False)

    def heldout_tasks(self, count: int) -> list[Task]:
        """Held-out tasks, the same for every seed of training."""
        return self._drawn(seed=self._cfg.seed, heldout=True, count=count)

    def groups(self, weights: model.Weights, index: int) -> list[list[Episode]]:
        """`num_samples` tries of every task of round `index`."""
        return self._groups(weights, self.tasks(index), self._seed, index)

    def heldout_groups(self, weights: model.Weights, count: int) -> list[list[Episode]]:
        """The same for `count` held-out tasks, with seeds that no round has."""
        return self._groups(weights, self.heldout_tasks(count), "heldout", self._cfg.seed)

    def _groups(
        self, weights: model.Weights, tasks: Sequence[Task], *key: object
    ) -> list[list[Episode]]:
        count = self._cfg.num_samples
        tries = [
            (task, _seed_of(*key, place * count + number))
            for place, task in enumerate(tasks)
            for number in range(count)
        ]
        played = self.play(weights, tries, self._cfg.temperature)
        return [played[k * count : (k + 1) * count] for k in range(len(tasks))]

    def play(
        self,
        weights: model.Weights,
        tries: Sequence[tuple[Task, int]],
        temperature: float,
    ) -> list[Episode]:
        """An episode of every (task, seed)."""
        with self.opened(weights) as (player, sample):
            return player.play(tries, sample, temperature)

    @contextlib.contextmanager
    def opened(
        self, weights: model.Weights, version: int = 0, with_routes: bool = False
    ) -> Iterator[tuple[episodes.Player, sampling.Sample]]:
        """Yields a player of episodes and a sampler by `weights`, with the sandbox running."""
        dtype = self._cfg.compute_dtype
        place = sampling.Place(self._cfg.num_rows, self.length, with_routes, dtype)
        end = chat.end_id(self.form, self.tokenizer)
        sample = sampling.of(weights, self._built, self.tokenizer.decode, end, place, version)
        limits = episodes.Limits(
            max_tokens=self._cfg.max_tokens, max_turns=self._cfg.max_turns, length=self.length
        )
        with sandbox.Pool() as tools, sandbox.Pool() as graders:
            of_first = _OfFirst(tools), _OfFirst(graders)
            yield episodes.Player(self.form, self.tokenizer, *of_first, limits), sample

    def group(self, player: episodes.Player, number: int) -> groups_lib.Group:
        """Prompt `number` of a run, from 0, and its tries before their first token."""
        size, count = self._cfg.num_prompts, self._cfg.num_samples
        task = self._tasks_of(number // size)[number % size]
        seeds = (_seed_of(self._seed, number, place) for place in range(count))
        return groups_lib.Group(number, tuple(player.start(task, seed) for seed in seeds))

    def logp(
        self, weights: model.Weights, segments: Sequence[store.Segment]
    ) -> list[Float[np.ndarray, "S"]]:
        """The log-probabilities of the targets of every segment."""
        return self.scored(lambda batch: self._built.steps.logp(weights, batch), segments)

    def scored(
        self, score: likelihood.Score, segments: Sequence[store.Segment]
    ) -> list[np.ndarray]:
        """What `score` gives at the position of every target of every segment."""
        rows = self._built.rows(self._batch_size)

        def place(batch: Batch) -> Batch:
            return self._built.place(batch.map(lambda column: column[rows]), self._batch_size)

        return likelihood.of_targets(segments, score, place, self._batch_size, self.length)

    def _drawn(self, *, seed: int, heldout: bool, count: int = 0) -> list[Task]:
        return drawing.tasks_of(
            [families.of(name) for name in self._cfg.families],
            self._cfg.languages,
            seed=seed,
            count=count or self._cfg.num_prompts,
            heldout=heldout,
        )


class _OfFirst:
    """The sandbox of process 0: what is late on one machine may not be on another."""

    def __init__(self, pool: sandbox.Pool):
        self._pool = pool

    def run(self, calls: Sequence[sandbox.Call]) -> list[sandbox.Outcome]:
        mine = None
        if parallel.is_first():
            mine = [dataclasses.asdict(one) for one in self._pool.run(calls)]
        return [sandbox.Outcome(**one) for one in parallel.everyones(mine)[0]]


def expect_sound(cfg: RolloutConfig) -> None:
    """Raises ConfigError where a family of tasks pays for what solves nothing; see the audit."""
    names = dict.fromkeys(name.partition("@")[0] for name in cfg.families)
    audit.check([families.of(name) for name in names], cfg.allow)


def success(player: Playing, drawn: Sequence[Task], every: int) -> fit.Evaluator:
    """How held-out tasks end with greedy answers: the figures of `evaluate.success`.

    The first tries of every family are written to transcripts.json in the folder of the run.
    """

    def measure(weights: model.Weights) -> Mapping[str, float]:
        played = player.play(weights, [(task, 0) for task in drawn], _GREEDY)
        parallel.on_first(lambda: transcripts.write(player.directory, played))
        return success_of.summarize(played, prefix="heldout_")

    return fit.Evaluator("heldout_success", every, measure)


def measured(job: Job, held: Sequence[tuple[RolloutConfig, int]]) -> Job:
    """`job`, which measures `success` too, at the end of training.

    `held` are families with their number of held-out tasks; the first one's limits hold for all.
    """

    def make(
        corpus: Any, cfg: config.DataConfig, train: config.TrainConfig, built: Built
    ) -> fit.Evaluator:
        players = [Playing(rollouts, cfg, corpus.tokenizer, built) for rollouts, _ in held]
        drawn = [
            task
            for player, (_, count) in zip(players, held, strict=True)
            for task in player.heldout_tasks(count)
        ]
        return success(players[0], drawn, train.num_steps)

    return measuring(job, make)


def _seed_of(*key: object) -> int:
    return packing.seed_of(*key, bits=32) >> 1  # of 31 bits
