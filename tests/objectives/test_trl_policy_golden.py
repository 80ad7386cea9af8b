"""Policy-gradient losses and their gradients against TRL's, from trl_policy_golden.json.

Letters: N rollouts, T tokens of one, B sequences, S positions.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from kanana_jax.batch import Batch
from kanana_jax.objectives import corrections, presets

GOLDEN = json.loads(Path(__file__).with_name("trl_policy_golden.json").read_text())
MASK_NT = np.float32(GOLDEN["mask"])
N, T = MASK_NT.shape
CASES = {
    "grpo": presets.grpo(),
    "grpo_k3": presets.grpo(kl="loss_k3", kl_weight=0.04),
    "dr_grpo": presets.dr_grpo(GOLDEN["constant_length"]),
    "dapo": presets.dapo(),
    "dapo_dual": presets.dapo(dual=1.4),
    "dapo_rk3": presets.dapo(kl="loss_rk3", kl_weight=0.1),
    "dapo_truncated": presets.dapo(
        kl="loss_k3", kl_weight=0.1, correction=corrections.Truncated(1.2)
    ),
    "cispo": presets.cispo(1.2),
    "gspo": presets.gspo(0.03, 0.04),
}


def packed(x_NT, fill=0.0):
    """Two rollouts to a row, each behind a prompt of one position."""
    x_NT = np.pad(np.float32(x_NT), ((0, 0), (1, 0)), constant_values=fill)
    return x_NT.reshape(N // 2, 2 * (T + 1))


@pytest.mark.parametrize("name", GOLDEN["cases"])
def test_policy_losses_and_their_gradients_are_those_of_trl(name):
    objective, wanted = CASES[name], GOLDEN["cases"][name]
    mask_BS = packed(MASK_NT)
    segment_BS = packed(np.ones((N, T)) + np.arange(N)[:, None] % 2, fill=1.0)
    segment_BS[:, T + 1] = 2
    segment_BS, zeros = np.int32(segment_BS), np.zeros(mask_BS.shape, np.int32)
    extra = {one: packed(GOLDEN[one], fill=-1.0) for one in ("old", "reference", "sampler")}
    extra["advantage"] = packed(np.repeat(np.float32(GOLDEN["advantages"])[:, None], T, axis=1))
    batch = Batch(zeros, zeros, zeros, segment_BS, mask_BS, mask_BS, extra=extra)
    logp_BS, totals = packed(GOLDEN["logps"], fill=-7.0), objective.totals(batch)
    seen = objective.seen(logp_BS, logp_BS, batch, totals, {})
    np.testing.assert_allclose(seen.sums["loss"], wanted["loss"], rtol=2e-6)
    w_BS = objective.coefficients(logp_BS, batch, totals, {})
    np.testing.assert_allclose(w_BS, -packed(wanted["slopes"]), rtol=5e-6, atol=1e-8)
