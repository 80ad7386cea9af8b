"""Losses of pairs and their gradients against TRL's, from trl_golden.json.

Letters: B sequences, S positions.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from kanana_jax.batch import Batch
from kanana_jax.objectives.dpo import dpo, dpo_norm
from kanana_jax.objectives.ipo import ipo
from kanana_jax.objectives.reward import Reward

GOLDEN = json.loads(Path(__file__).with_name("trl_golden.json").read_text())
PREFERENCE = {
    "dpo": dpo(0.3),
    "dpo_smoothed": dpo(0.3, 0.1),
    "dpo_norm": dpo_norm(5.0),
    "ipo": ipo(0.3),
    "dpo_sft": dpo(0.3, sft_weight=0.2),
}
REWARD = {"plain": Reward(0.0), "centered": Reward(0.01)}
PROMPT = 1


def rows_of(pairs, fill=0.0):
    """A row for each pair of answers: their numbers behind prompts of one position."""
    rows = []
    for pair in pairs:
        parts = [[fill] * PROMPT + answer for answer in pair]
        rows.append(np.concatenate(parts))
    width = max(map(len, rows))
    return np.stack([np.pad(row, (0, width - len(row))) for row in rows]).astype(np.float32)


def batch_of(pairs) -> Batch:
    mask = rows_of([[[1.0] * len(answer) for answer in pair] for pair in pairs])
    segments = np.zeros(mask.shape, np.int32)
    for row, (chosen, rejected) in enumerate(pairs):
        first = PROMPT + len(chosen)
        segments[row, :first] = 1
        segments[row, first : first + PROMPT + len(rejected)] = 2
    return Batch(segments, segments, segments, segments, mask, mask)


@pytest.mark.parametrize("name", PREFERENCE)
def test_preference_losses_and_their_gradients_are_those_of_trl(name):
    objective, batch = PREFERENCE[name], batch_of(GOLDEN["logps"])
    wanted = GOLDEN["preference"][name]
    # What prompts hold must not count.
    logp_BS, ref_BS = rows_of(GOLDEN["logps"], fill=-7.0), rows_of(GOLDEN["refs"], fill=-1.0)
    totals, frozen = objective.totals(batch), {"reference": ref_BS}
    seen = objective.seen(logp_BS, logp_BS, batch, totals, frozen)
    np.testing.assert_allclose(seen.sums["loss"], wanted["loss"], rtol=2e-6)
    w_BS = objective.coefficients(logp_BS, batch, totals, frozen)
    np.testing.assert_allclose(w_BS, -rows_of(wanted["slopes"]), rtol=5e-6, atol=1e-8)


@pytest.mark.parametrize("name", REWARD)
def test_reward_losses_and_their_gradients_are_those_of_trl(name):
    objective, batch = REWARD[name], batch_of(GOLDEN["logps"])
    wanted = GOLDEN["reward"][name]

    def at_ends(numbers, fill=0.0):
        pairs = [
            [[fill] * (len(answer) - 1) + [numbers[side][k]] for side, answer in enumerate(answers)]
            for k, answers in enumerate(GOLDEN["logps"])
        ]
        return rows_of(pairs, fill)

    # Only the last target of an answer has a reward.
    scalar_BS = at_ends(GOLDEN["rewards"], fill=5.0)
    totals = objective.totals(batch)
    seen = objective.seen(scalar_BS, scalar_BS, batch, totals, {})
    np.testing.assert_allclose(seen.sums["loss"], wanted["loss"], rtol=2e-6)
    w_BS = objective.coefficients(scalar_BS, batch, totals, {})
    np.testing.assert_allclose(w_BS, -at_ends(wanted["slopes"]), rtol=5e-6, atol=1e-8)
