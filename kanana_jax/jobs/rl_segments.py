"""From groups of tries to what a step trains on: advantages, log-probabilities, routes.

Columns of the targets, 0 where the model did not draw them:

    advantage    how much better its try was than the others of its group, or by `gae`
    sampler      its log-probability as it was drawn                          mu
    old          the same by the trainer's forward pass, before the update    pi_o
    reference    the same under the weights that training began with
    returns, old_values                                                       of a critic

Letters: N tries, S targets of the longest one, L MoE layers, K experts of an id.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from kanana_jax import config, model
from kanana_jax.data.chat import Origin
from kanana_jax.jobs import playing, rl_losses
from kanana_jax.jobs.job import Built
from kanana_jax.objectives import gae
from kanana_jax.rollouts.episodes import NO_VERSION, Episode
from kanana_jax.rollouts.store import Collected, Segment

Numbers = Float[np.ndarray, "N S"]


class Judged(NamedTuple):
    """A try that has ended, its group, and what it is worth."""

    episode: Episode
    group: int
    value: float


class Segments:
    """Makes segments of tries by the weights that are about to be trained on them."""

    def __init__(
        self,
        cfg: config.RLConfig,
        player: playing.Playing,
        built: Built,
        reference: Callable[[], model.Weights],
    ):
        self._cfg, self._player, self._steps = cfg, player, built.steps
        self._reference = functools.cache(reference)
        self._has_experts = built.steps.cfg.model.num_moe_layers > 0

    @property
    def reads_routes(self) -> bool:
        """Whether the sampler is to keep the experts of every token."""
        is_asked = self._cfg.measures_routing or self._cfg.routing == "sampler"
        return self._has_experts and is_asked

    def make(
        self, weights: model.Weights, version: int, tries: Sequence[Judged], temperature: float
    ) -> tuple[list[Collected], dict[str, float]]:
        """An example of each try, and figures of all of them.

        Figures on how sampler and trainer differ are of tries that these weights, `version`, drew
        alone.
        """
        if not tries:
            return [], {}
        episodes = [one.episode for one in tries]
        has_temperature = rl_losses.has_temperature(self._cfg)
        plain = [_plain(one, temperature if has_temperature else None) for one in episodes]
        live_routes = self._live_routes(weights, plain)
        segments = self._routed(plain, episodes, live_routes)
        drawn_NS = _padded([_is_drawn(one)[1:] for one in episodes]).astype(bool)
        is_new_N = np.array([set(one.versions) <= {NO_VERSION, version} for one in episodes])
        new_NS = drawn_NS & is_new_N[:, None]
        columns = {
            "sampler": _padded([one.logps[1:] for one in episodes]),
            "old": _padded(self._player.logp(weights, segments)),
            "reference": _padded(self._player.logp(self._reference(), plain)),
        }
        figures = {
            **mismatch(columns["old"], columns["sampler"], new_NS),
            "kl_to_start": _mean((columns["old"] - columns["reference"])[drawn_NS]),
            "resumed_share": 1.0 - _mean(is_new_N),
        }
        if self.reads_routes and live_routes:
            live_NS = columns["old"]
            if self._cfg.routing != "live":
                live_NS = _padded(self._player.logp(weights, plain))
            of_live = mismatch(live_NS, columns["sampler"], new_NS)
            figures |= {f"live_{name}": value for name, value in of_live.items()}
            routes = zip(episodes, live_routes, is_new_N, strict=True)
            figures |= disagreement([(one, theirs) for one, theirs, is_new in routes if is_new])
        columns |= self._advantages(weights, tries, segments, drawn_NS, columns)
        made = [
            _collected(one, segment, {key: x_NS[n] for key, x_NS in columns.items()}, drawn_NS[n])
            for n, (one, segment) in enumerate(zip(tries, segments, strict=True))
        ]
        return made, figures

    def _advantages(
        self,
        weights: model.Weights,
        tries: Sequence[Judged],
        segments: Sequence[Segment],
        drawn_NS: Bool[np.ndarray, "N S"],
        columns: Mapping[str, Numbers],
    ) -> dict[str, Numbers]:
        reward_NS = np.zeros(drawn_NS.shape)
        last_N = drawn_NS.shape[1] - 1 - np.argmax(drawn_NS[:, ::-1], axis=1)
        reward_NS[np.arange(len(tries)), last_N] = [one.value for one in tries]
        if self._cfg.kl == "reward_k1":
            old_NS, reference_NS = columns["old"], columns["reference"]
            reward_NS = gae.with_divergence(
                reward_NS, old_NS, reference_NS, drawn_NS, self._cfg.kl_weight
            )
        estimate = rl_losses.estimate(self._cfg)
        if estimate is None:
            return self._by_critic(weights, segments, reward_NS, drawn_NS)
        advantage_N = estimate(reward_NS.sum(axis=1), np.array([one.group for one in tries]))
        return {"advantage": advantage_N[:, None] * drawn_NS}

    def _by_critic(
        self,
        weights: model.Weights,
        segments: Sequence[Segment],
        reward_NS: Numbers,
        drawn_NS: Bool[np.ndarray, "N S"],
    ) -> dict[str, Numbers]:
        values = self._player.scored(lambda batch: self._steps.scalars(weights, batch), segments)
        value_NS = _padded(values)
        ones_NS = np.ones(drawn_NS.shape, np.int32)
        found = gae.gae(reward_NS, value_NS, drawn_NS, ones_NS)
        return {
            "advantage": gae.whitened(found.advantage_BS, drawn_NS),
            "returns": found.return_BS,
            "old_values": value_NS,
        }

    def _live_routes(self, weights: model.Weights, plain: Sequence[Segment]) -> list[np.ndarray]:
        """The experts that the trainer chooses; empty where no setting asks for them."""
        is_asked = self._cfg.measures_routing or self._cfg.routing == "trainer"
        if not (self._has_experts and is_asked):
            return []
        return self._player.scored(lambda batch: self._steps.routes(weights, batch), plain)

    def _routed(
        self,
        plain: Sequence[Segment],
        episodes: Sequence[Episode],
        live_routes: Sequence[np.ndarray],
    ) -> list[Segment]:
        """Segments with the experts that the update is to use, where it does not choose anew."""
        routes: Iterable[np.ndarray | None] = [None] * len(plain)
        if self._has_experts and self._cfg.routing == "sampler":
            routes = [one.routes for one in episodes]
        elif self._has_experts and self._cfg.routing == "trainer":
            routes = live_routes
        return [one._replace(routes=x) for one, x in zip(plain, routes, strict=True)]


def mismatch(
    trainer_NS: Numbers, sampler_NS: Numbers, drawn_NS: Bool[np.ndarray, "N S"]
) -> dict[str, float]:
    """How far the trainer's log-probabilities are from those at sampling, over drawn tokens.

    `mismatch_k3`, the mean of exp(d) - 1 - d with d = trainer - sampler, estimates the KL
    divergence of the sampler from the trainer. `mismatch_max` is the largest |d|.
    """
    d_T = (trainer_NS - sampler_NS)[drawn_NS]
    if not d_T.size:
        return {}
    return {
        "mismatch_k3": _mean(np.expm1(d_T) - d_T),
        "mismatch_max": float(np.max(np.abs(d_T))),
    }


def disagreement(tries: Sequence[tuple[Episode, np.ndarray]]) -> dict[str, float]:
    """The share of (id, layer) whose experts differ from the sampler's, in any order."""
    differs = []
    for one, theirs in tries:
        assert one.routes is not None
        both = min(len(one.routes), len(theirs))
        pair = (np.sort(x[:both].astype(np.int32), axis=-1) for x in (one.routes, theirs))
        differs.append(np.not_equal(*pair).any(axis=-1).ravel())
    return {"route_disagreement": _mean(np.concatenate(differs))} if differs else {}


def _plain(one: Episode, temperature: float | None) -> Segment:
    columns = {} if temperature is None else {"temperature": (temperature,) * len(one.ids)}
    return Segment(one.ids, one.origins, columns)


def _is_drawn(one: Episode) -> Bool[np.ndarray, " ids"]:
    return np.asarray(one.origins) == Origin.MODEL


def _padded(rows: Sequence[Sequence[float] | np.ndarray]) -> Numbers:
    """Rows of numbers as one array, filled up with 0."""
    found = np.zeros((len(rows), max(map(len, rows))))
    for row_S, values in zip(found, rows, strict=True):
        row_S[: len(values)] = values
    return found


def _collected(
    one: Judged,
    segment: Segment,
    columns: Mapping[str, np.ndarray],
    drawn_S: Bool[np.ndarray, " S"],
) -> Collected:
    played, num_targets = one.episode, len(segment.ids) - 1

    def of_ids(column_S: np.ndarray) -> tuple[float, ...]:
        kept_S = np.where(drawn_S, column_S, 0.0)[:num_targets]
        return (0.0, *kept_S.tolist())

    made = {name: of_ids(column_S) for name, column_S in columns.items()}
    return Collected(
        segments=(segment._replace(columns={**segment.columns, **made}),),
        about={
            "family": played.task.family,
            "level": played.task.level,
            "prompt": played.task.messages[-1]["content"],
            "messages": list(played.messages),
            "group": one.group,
            "seed": played.seed,
            "end": played.end,
            "reward": played.reward,
            "value": one.value,
            "versions": sorted({version for version in played.versions if version >= 0}),
        },
    )


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values))
