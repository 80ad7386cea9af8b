"""Policy gradients: a surrogate of the expected advantage, and the terms added to it.

    loss = sum_t a_t (c_t l_t + kl_weight k_t) + ptx_weight mean_t nll_t
    w_t  = a_t (c_t g_t + kl_weight h_t)                        and ptx_weight / targets

The first sum runs over the tokens that the model drew, the mean over the targets of stored data.
l, g: `surrogates` and `squared`. a: `rollouts`. c: `corrections`. k, h: `divergences`.

The columns of a batch, float32, on targets: "advantage"; the log-probabilities "old", by the
trainer before the first update of the round, "sampler", by the engine as the token was drawn, and
"reference", by the weights to stay close to; "stored", 1 on rows of stored data;
"temperature", by which logits were divided; "returns" and "old_values" of a critic.
Letters: B sequences, S positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from kanana_jax.batch import Batch
from kanana_jax.objectives import divergences, rollouts
from kanana_jax.objectives.corrections import Correction
from kanana_jax.objectives.critic import ValueLoss
from kanana_jax.objectives.objective import Seen
from kanana_jax.objectives.surrogates import MAX_LOG_RATIO, Drawn, Surrogate


@dataclass(frozen=True, kw_only=True)
class PolicyGradient:
    """One named loss; `presets` has the usual ones. ValueError where fields do not fit.

    `ratio_to` is the policy that the surrogate compares with: "old", or "sampler", which leaves
    nothing to correct and needs no pass of the trainer before a round's first update.
    `constant_length` is the length that the aggregation "constant" divides by, in tokens.
    """

    surrogate: Surrogate
    aggregation: rollouts.Aggregation = "token"
    constant_length: int | None = None
    ratio_to: Literal["old", "sampler"] = "old"
    correction: Correction | None = None
    kl: divergences.Divergence = "none"
    kl_weight: float = 0.0
    ptx_weight: float = 0.0
    has_temperature: bool = False
    replays_routes: bool = False
    critic: ValueLoss | None = None

    z_weight = 0.0
    reads_scalars = False
    frozen = ()
    teaching = None

    def __post_init__(self):
        rollouts.check(self.aggregation, self.constant_length)
        divergences.check(self.kl, self.kl_weight)
        if self.ratio_to not in ("old", "sampler"):
            raise ValueError(f"ratio_to must be old or sampler, got {self.ratio_to!r}")
        if self.ratio_to == "sampler" and self.correction is not None:
            raise ValueError(
                "a ratio to the sampler has the correction in it already, got ratio_to='sampler' "
                f"and {self.correction}; leave one out"
            )
        if not 0.0 <= self.ptx_weight < float("inf"):
            raise ValueError(
                f"ptx_weight must be a number from 0, got {self.ptx_weight}; 0 leaves the term out"
            )

    @property
    def needs_values(self) -> bool:
        return self.surrogate.needs_values or self.kl != "none"

    @property
    def columns(self) -> tuple[str, ...]:
        optional = {
            "old": self.ratio_to == "old",
            "reference": self.kl != "none",
            "stored": self.ptx_weight > 0.0,
            "temperature": self.has_temperature,
        }
        named = tuple(name for name, is_read in optional.items() if is_read)
        return ("advantage", "sampler", *named, *(self.critic.columns if self.critic else ()))

    def totals(self, batch: Batch) -> rollouts.Totals:
        """Drawn tokens, rollouts and targets of stored data."""
        return rollouts.totals(batch)

    def coefficients(
        self,
        value_BS: Float[Array, "B S"] | None,
        /,
        batch: Batch,
        totals: rollouts.Totals,
        frozen: Mapping[str, Float[Array, "B S"]],
    ) -> Float[Array, "B S"]:
        """w of the module's docstring: 0 on tokens neither drawn nor stored."""
        del frozen
        assert value_BS is not None or not self.needs_values
        logp_BS = jnp.zeros_like(batch.loss_mask) if value_BS is None else value_BS
        drawn = self._drawn(logp_BS, batch)
        w_BS = self._correction(drawn) * self.surrogate(drawn).pull_BS
        if self.kl != "none":
            w_BS += self.kl_weight * self._divergence(drawn)[1]
        w_BS = jnp.where(drawn.is_drawn_BS, self._weights(drawn, totals) * w_BS, 0.0)
        if self.ptx_weight:
            ptx = self.ptx_weight / totals.stored
            w_BS = jnp.where(rollouts.is_stored(batch), ptx, w_BS)
        return w_BS

    def seen(
        self,
        value_BS: Float[Array, "B S"],
        /,
        logz_BS: Float[Array, "B S"],
        batch: Batch,
        totals: rollouts.Totals,
        frozen: Mapping[str, Float[Array, "B S"]],
    ) -> Seen:
        """The loss, and means over the drawn tokens.

        "old_k1" and "old_k3" estimate KL(old, pi) ("sampler_k1", "sampler_k3" for a ratio to the
        sampler), "reference_k3" KL(pi, reference), "mismatch_k3" KL(sampler, old). "drawn_nll" is
        -log pi: its mean over tokens that pi draws is the entropy. "clipped" and "masked" are
        shares of tokens, "ptx_nll" a mean over stored targets.
        """
        del logz_BS, frozen
        drawn = self._drawn(value_BS, batch)
        found, correction_BS = self.surrogate(drawn), self._correction(drawn)
        loss_BS = correction_BS * found.loss_BS
        of_tokens = self._figures(drawn) | {"clipped": found.is_clipped_BS}
        if self.correction is not None:
            of_tokens |= {"correction": correction_BS, "masked": correction_BS == 0.0}
        if self.kl != "none":
            loss_BS += self.kl_weight * self._divergence(drawn)[0]
            of_tokens["reference_k3"] = divergences.k3(self._reference_ratio(drawn))
        weighted_BS = self._weights(drawn, totals) * loss_BS
        loss = jnp.sum(jnp.where(drawn.is_drawn_BS, weighted_BS, 0.0))
        sums = totals.means(of_tokens, drawn.is_drawn_BS)
        if self.ptx_weight:
            nll_BS = jnp.where(rollouts.is_stored(batch), -value_BS, 0.0)
            sums["ptx_nll"] = jnp.sum(nll_BS) / totals.stored
            loss += self.ptx_weight * sums["ptx_nll"]
        return Seen(sums | {"loss": loss}, self._maxima(drawn))

    def _drawn(self, logp_BS: Float[Array, "B S"], batch: Batch) -> Drawn:
        is_drawn_BS = rollouts.is_drawn(batch)
        return Drawn(
            is_drawn_BS,
            logp_BS,
            # Not 0 times a number: values elsewhere may be infinite.
            jnp.where(is_drawn_BS, logp_BS - jnp.asarray(batch.extra[self.ratio_to]), 0.0),
            jnp.asarray(batch.extra["advantage"]),
            jnp.asarray(batch.extra["sampler"]),
            batch,
        )

    def _weights(self, drawn: Drawn, totals: rollouts.Totals) -> Float[Array, "B S"]:
        return rollouts.weights(self.aggregation, self.constant_length, drawn.lengths(), totals)

    def _correction(self, drawn: Drawn) -> Float[Array, "B S"]:
        if self.correction is None:
            return jnp.ones_like(drawn.logp_BS)
        return self.correction(_log_rho(drawn), drawn)

    def _divergence(self, drawn: Drawn) -> tuple[Float[Array, "B S"], Float[Array, "B S"]]:
        return divergences.terms(self.kl, -self._reference_ratio(drawn), drawn.log_ratio_BS)

    def _reference_ratio(self, drawn: Drawn) -> Float[Array, "B S"]:
        """log ref - log pi, 0 where nothing was drawn."""
        reference_BS = jnp.asarray(drawn.batch.extra["reference"])
        return jnp.where(drawn.is_drawn_BS, reference_BS - drawn.logp_BS, 0.0)

    def _figures(self, drawn: Drawn) -> dict[str, Array]:
        log_ratio_BS = drawn.log_ratio_BS
        figures = {
            "ratio": jnp.exp(jnp.minimum(log_ratio_BS, MAX_LOG_RATIO)),
            f"{self.ratio_to}_k1": -log_ratio_BS,
            f"{self.ratio_to}_k3": divergences.k3(log_ratio_BS),
            "drawn_nll": -drawn.logp_BS,
        }
        if self.ratio_to == "old":
            figures["mismatch_k3"] = divergences.k3(_log_rho(drawn))
        return figures

    def _maxima(self, drawn: Drawn) -> dict[str, Array]:
        if self.ratio_to == "sampler":
            return {}
        return {"max_mismatch": jnp.max(jnp.abs(_log_rho(drawn)))}


def _log_rho(drawn: Drawn) -> Float[Array, "B S"]:
    """log old - log mu, 0 where nothing was drawn."""
    old_BS = jnp.asarray(drawn.batch.extra["old"])
    return jnp.where(drawn.is_drawn_BS, old_BS - drawn.sampler_BS, 0.0)
