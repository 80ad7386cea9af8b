"""Loss curves against tokens, and what two of them say about transfer (arXiv:2510.22037).

    BTS(d) = -(sigma(L(d)) - 2 d) / d        L: of target text alone, sigma: tokens at which an even
                                             mixture of two languages has that loss

1: the source is as good as target text, 0: of no use, below: it does harm. The score drifts with
its anchor d, so it is a curve and has a range. Amounts are tokens, or content where a token of one
text holds more than a token of the other.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from kanana_jax.laws import lines
from kanana_jax.laws.errors import LawError


@dataclass(frozen=True)
class Curve:
    """Losses on target text against tokens read, at one state of the learning rate."""

    tokens_N: Float[np.ndarray, "N"]
    loss_N: Float[np.ndarray, "N"]
    rate_state: str  # such as "constant, average" or "decayed"
    content_per_token: float = 1.0  # such as UTF-8 bytes, or sentences of parallel text

    def __post_init__(self):
        tokens_N, loss_N = self.tokens_N, self.loss_N
        is_good = len(tokens_N) > 1 and np.shape(tokens_N) == np.shape(loss_N)
        if not is_good or np.any(np.diff(tokens_N) <= 0) or not tokens_N[0] > 0:
            raise LawError(
                f"a curve needs two or more increasing tokens, a loss each; got "
                f"{tokens_N} and {loss_N}"
            )
        if not np.all(np.isfinite(loss_N) & (np.asarray(loss_N) > 0)):
            raise LawError(f"losses must be positive numbers, got {loss_N}")
        if not self.content_per_token > 0:
            raise LawError(f"content_per_token must be positive, got {self.content_per_token}")

    def loss_at(self, tokens: Float[np.ndarray, "A"]) -> Float[np.ndarray, "A"]:
        """Interpolated between readings on logarithms; NaN outside of them."""
        return np.exp(
            np.interp(
                np.log(tokens),
                np.log(self.tokens_N),
                np.log(self.loss_N),
                left=np.nan,
                right=np.nan,
            )
        )

    def tokens_at(self, loss: Float[np.ndarray, "A"]) -> Float[np.ndarray, "A"]:
        """The tokens by which a loss was first reached; NaN above the first or below the last."""
        # A loss that noise lifts again was reached before.
        lowest_N = np.minimum.accumulate(self.loss_N)
        kept_N = np.concatenate([[True], np.diff(lowest_N) < 0])
        falling_N, tokens_N = np.log(lowest_N[kept_N]), np.log(self.tokens_N[kept_N])
        found = np.interp(np.log(loss), falling_N[::-1], tokens_N[::-1], left=np.nan, right=np.nan)
        return np.exp(found)


class TransferScore(NamedTuple):
    """The score at every anchor; NaN where the mixture does not reach the loss."""

    anchor_A: Float[np.ndarray, "A"]
    score_A: Float[np.ndarray, "A"]

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest score, which belong in what is published about a pair."""
        return float(np.nanmin(self.score_A)), float(np.nanmax(self.score_A))


def bilingual_transfer(
    mono: Curve,
    bilingual: Curve,
    anchor_A: Float[np.ndarray, "A"],
    *,
    matching: Literal["tokens", "content"] = "tokens",
) -> TransferScore:
    """BTS with anchors in tokens of target text.

    LawError where the two curves have different states of the rate, which alone looks like
    transfer, or share no anchor.
    """
    _expect_one_state(mono, bilingual)
    anchor_A = np.asarray(anchor_A, float)
    sigma_A = bilingual.tokens_at(mono.loss_at(anchor_A))
    if matching == "content":
        sigma_A = sigma_A * bilingual.content_per_token / mono.content_per_token
    score_A = 2.0 - sigma_A / anchor_A
    if not np.any(np.isfinite(score_A)):
        raise LawError(
            f"the mixture reaches the loss of no anchor in {anchor_A}: anchors must lie within "
            f"{mono.tokens_N[0]:g} and {mono.tokens_N[-1]:g} tokens, and the mixture be read until "
            "about twice as many"
        )
    return TransferScore(anchor_A, score_A)


def crossover(fine_tuned: Curve, scratch: Curve) -> float | None:
    """Tokens from which training from scratch is better than continuing from another model.

    None where that was not seen: scratch stays behind, or is ahead from the first common reading.
    """
    _expect_one_state(fine_tuned, scratch)
    tokens_N = np.union1d(fine_tuned.tokens_N, scratch.tokens_N)
    gap_N = np.log(scratch.loss_at(tokens_N)) - np.log(fine_tuned.loss_at(tokens_N))
    tokens_N, gap_N = tokens_N[np.isfinite(gap_N)], gap_N[np.isfinite(gap_N)]
    # The last change of sign: noise makes curves touch before they part.
    turns = np.flatnonzero((gap_N[:-1] > 0) & (gap_N[1:] <= 0))
    if not len(turns) or gap_N[-1] > 0:
        return None
    at = turns[-1]
    share = gap_N[at] / (gap_N[at] - gap_N[at + 1])
    log_tokens = np.log(tokens_N[at : at + 2])
    return float(np.exp(log_tokens[0] + share * (log_tokens[1] - log_tokens[0])))


def crossover_law(
    num_params_M: Float[np.ndarray, "M"], tokens_M: Float[np.ndarray, "M"]
) -> lines.Line:
    """Compute 6 N D at the crossover as a power of N."""
    num_params_M, tokens_M = np.asarray(num_params_M, float), np.asarray(tokens_M, float)
    return lines.fit(num_params_M, 6.0 * num_params_M * tokens_M)


def _expect_one_state(one: Curve, other: Curve) -> None:
    if one.rate_state != other.rate_state:
        raise LawError(
            "both curves must be read at one state of the learning rate, got "
            f"{one.rate_state!r} and {other.rate_state!r}"
        )
