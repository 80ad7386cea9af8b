"""The interface between a loss and the train step.

The head of the model forms logits for a few tokens at a time and never keeps them. It takes one
weight per token and adds up

    sum_t w_t (nll_t + z_weight logz_t^2),        w_t = -d loss / d log-probability of target t

so a loss of the targets' log-probabilities needs no head of its own: it only provides w. A loss of
the scalars r_t that a reward model gives its positions does the same with -r_t instead of nll_t.

Letters: B sequences, S positions.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from jaxtyping import Array, Float

from kanana_jax.batch import Batch
from kanana_jax.objectives.soft_targets import Divergence


class Seen(NamedTuple):
    """What a step reports. `sums` has "loss", which is minimised."""

    sums: dict[str, Array]  # scalars; those of micro-batches add up to the batch's
    maxima: dict[str, Array]  # the largest of the micro-batches counts


class Critic(Protocol):
    """A loss of the scalar head, added to an objective's own in the same pass. Hashable."""

    def coefficients(
        self, value_BS: Float[Array, "B S"], /, batch: Batch, totals: Any
    ) -> Float[Array, "B S"]:
        """-d loss / d value of every position of a micro-batch; `totals` are the objective's."""
        ...

    def sums(self, value_BS: Float[Array, "B S"], /, batch: Batch, totals: Any) -> dict[str, Array]:
        """What to report, as `Seen.sums`; its "loss" is added to the objective's."""
        ...


class Teaching(Protocol):
    """A loss of whole rows of logits against a teacher's, in the head's own pass. Hashable."""

    @property
    def divergence(self) -> Divergence: ...

    @property
    def is_live(self) -> bool:
        """Whether the teacher's logits are formed in the step; else batches hold its numbers."""
        ...

    def coefficients(self, batch: Batch, totals: Any) -> Float[Array, "B S"]:
        """d loss / d divergence of every position of a micro-batch."""
        ...

    def sums(self, value_BS: Float[Array, "B S"], batch: Batch, totals: Any) -> dict[str, Array]:
        """What to report, as `Seen.sums`; its "loss" is added to the objective's."""
        ...


class Objective(Protocol):
    """A loss. Hashable, as compiled functions depend on it."""

    @property
    def reads_scalars(self) -> bool:
        """Whether it is a loss of the scalar head's output, and not of log-probabilities."""
        ...

    @property
    def needs_values(self) -> bool:
        """Whether w depends on the values it reads, which takes a separate pass of the head."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `Batch.extra` that it reads."""
        ...

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of other weights whose log-probabilities it reads, e.g. ("reference",)."""
        ...

    @property
    def z_weight(self) -> float: ...

    @property
    def replays_routes(self) -> bool:
        """Whether batches say which experts a token goes to: `Batch.routes`."""
        ...

    @property
    def critic(self) -> Critic | None:
        """An added loss of values; the model then needs a scalar head."""
        ...

    @property
    def teaching(self) -> Teaching | None:
        """An added loss against a teacher."""
        ...

    def totals(self, batch: Batch) -> Any:
        """What it must know about the whole batch, before it is cut into micro-batches."""
        ...

    def coefficients(
        self,
        value_BS: Float[Array, "B S"] | None,
        /,
        batch: Batch,
        totals: Any,
        frozen: Mapping[str, Float[Array, "B S"]],
    ) -> Float[Array, "B S"]:
        """w of every token of a micro-batch. No gradient flows through it.

        `value_BS` is what it reads, None unless `needs_values`; `frozen` has the log-probabilities
        under other weights, by name.
        """
        ...

    def seen(
        self,
        value_BS: Float[Array, "B S"],
        /,
        logz_BS: Float[Array, "B S"],
        batch: Batch,
        totals: Any,
        frozen: Mapping[str, Float[Array, "B S"]],
    ) -> Seen:
        """What to report of a micro-batch."""
        ...
