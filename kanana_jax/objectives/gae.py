"""Advantages of tokens from values: generalized advantage estimation (arXiv:1506.02438, eq. 16).

    delta_t = R_t + gamma V_next - V_t        A_t = delta_t + gamma lambda A_next

`next` is the next token that the model drew in the rollout. Text of an environment between two of
the model's turns takes no time: value and sum skip it, as if the turns touched. After the last
token both are 0. NumPy in float64, as rollouts are collected. Rows are those of a batch: segments
are rollouts, `is_drawn_BS` is 1 on drawn targets. Letters: B sequences, S positions.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

Numbers = Float[np.ndarray, "B S"]
Mask = Bool[np.ndarray, "B S"]


class Estimate(NamedTuple):
    """0 where nothing was drawn."""

    advantage_BS: Numbers
    return_BS: Numbers  # A + V, the critic's target


def gae(
    reward_BS: Numbers,
    value_BS: Numbers,
    is_drawn_BS: Mask,
    segment_ids_BS: Int[np.ndarray, "B S"],
    *,
    lam: float = 0.95,
    gamma: float = 1.0,
) -> Estimate:
    """ValueError where a reward is not on a drawn token: it would be lost."""
    check_rewards(reward_BS, is_drawn_BS)
    reward_BS, value_BS = (np.asarray(x, np.float64) for x in (reward_BS, value_BS))
    advantage_BS = np.zeros_like(reward_BS)
    next_value_B, next_advantage_B = np.zeros((2, len(reward_BS)))
    later_B = np.zeros(len(reward_BS), segment_ids_BS.dtype)
    for s in range(reward_BS.shape[1] - 1, -1, -1):
        is_same_B = segment_ids_BS[:, s] == later_B
        next_value_B, next_advantage_B = next_value_B * is_same_B, next_advantage_B * is_same_B
        delta_B = reward_BS[:, s] + gamma * next_value_B - value_BS[:, s]
        own_B, is_drawn_B = delta_B + gamma * lam * next_advantage_B, is_drawn_BS[:, s]
        advantage_BS[:, s] = np.where(is_drawn_B, own_B, 0.0)
        next_advantage_B = np.where(is_drawn_B, own_B, next_advantage_B)
        next_value_B = np.where(is_drawn_B, value_BS[:, s], next_value_B)
        later_B = segment_ids_BS[:, s]
    return Estimate(advantage_BS, np.where(is_drawn_BS, advantage_BS + value_BS, 0.0))


def whitened(value_BS: Numbers, is_drawn_BS: Mask, eps: float = 1e-8) -> Numbers:
    """With mean 0 and variance 1 over the drawn tokens, 0 elsewhere."""
    value_BS = np.asarray(value_BS, np.float64)
    drawn_M = value_BS[is_drawn_BS]
    if not drawn_M.size:
        return np.zeros_like(value_BS)
    white_BS = (value_BS - drawn_M.mean()) / np.sqrt(drawn_M.var() + eps)
    return np.where(is_drawn_BS, white_BS, 0.0)


def with_divergence(
    reward_BS: Numbers, old_BS: Numbers, reference_BS: Numbers, is_drawn_BS: Mask, weight: float
) -> Numbers:
    """Rewards minus weight times log pi_o - log ref on every drawn token: k1, in the reward.

    In the mean this is the reward minus weight times KL(pi_o, ref), and so is its gradient
    (arXiv:2203.02155, eq. 2). Sums over a rollout are the rewards that groups compare.
    ValueError where a reward is not on a drawn token.
    """
    check_rewards(reward_BS, is_drawn_BS)
    k1_BS = np.asarray(old_BS, np.float64) - np.asarray(reference_BS, np.float64)
    return np.where(is_drawn_BS, reward_BS - weight * k1_BS, 0.0)


def check_rewards(reward_BS: Numbers, is_drawn_BS: Mask) -> None:
    """ValueError where a reward is not on a drawn token."""
    lost = np.argwhere((reward_BS != 0.0) & ~is_drawn_BS)
    if len(lost):
        raise ValueError(
            "rewards must stand on tokens that the model drew, got others at (row, position) "
            f"{lost[:4].tolist()}; put each on the last drawn token before it"
        )
