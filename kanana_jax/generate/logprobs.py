"""Log-probabilities of tokens under the model, as clients ask for them.

They are the model's own: before logits processors, temperature and filters.

Letters: N tokens, V vocabulary, K most likely tokens.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

MOST_TOP_LOGPROBS = 20


class Logprobs(NamedTuple):
    """Log-probabilities of tokens, and of the most likely ones in their places, the best first."""

    logp_N: Float[Array | np.ndarray, "*N"]
    top_NK: Int[Array | np.ndarray, "*N K"]
    top_logp_NK: Float[Array | np.ndarray, "*N K"]


def of(logits_NV: Float[Array, "N V"], tokens_N: Int[Array, "N"]) -> Logprobs:
    """The log-probability of each token, and the K = 20 most likely ones in its place."""
    logp_NV = jax.nn.log_softmax(logits_NV, axis=-1)
    top_logp_NK, top_NK = jax.lax.top_k(logp_NV, min(MOST_TOP_LOGPROBS, logits_NV.shape[-1]))
    return Logprobs(
        jnp.take_along_axis(logp_NV, tokens_N[:, None], axis=-1)[:, 0], top_NK, top_logp_NK
    )
