"""Advantages of rollouts from their rewards, in groups that answer the same prompt.

    group_mean      A = R - mean R                         (arXiv:2503.20783; arXiv:2501.12599)
    leave_one_out   A = R - mean of the others' R          (arXiv:2402.14740)
    group_norm      A = (R - mean R) / (std R + eps)       (arXiv:2402.03300)

NumPy in float64, as rollouts are collected. A group is a number that its rollouts share; groups may
differ in size. Letters: N rollouts.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

Rewards = Float[np.ndarray, " N"]
Groups = Int[np.ndarray, " N"]


def group_mean(reward_N: Rewards, group_N: Groups) -> Float[np.ndarray, " N"]:
    """ValueError where a group has one rollout, with nothing to compare it to."""
    place_N, size_N = _members(reward_N, group_N)
    return np.asarray(reward_N, np.float64) - _sums(reward_N, place_N) / size_N


def leave_one_out(reward_N: Rewards, group_N: Groups) -> Float[np.ndarray, " N"]:
    """The baseline is unbiased, as it leaves out R itself. ValueError as in `group_mean`."""
    _, size_N = _members(reward_N, group_N)
    return group_mean(reward_N, group_N) * size_N / (size_N - 1)


def group_norm(reward_N: Rewards, group_N: Groups, eps: float = 1e-6) -> Float[np.ndarray, " N"]:
    """Uses the sample standard deviation, n - 1. ValueError as in `group_mean`."""
    place_N, size_N = _members(reward_N, group_N)
    centered_N = group_mean(reward_N, group_N)
    variance_N = _sums(centered_N**2, place_N) / (size_N - 1)
    return centered_N / (np.sqrt(variance_N) + eps)


def has_equal_rewards(reward_N: Rewards, group_N: Groups) -> Bool[np.ndarray, " N"]:
    """Whether all rollouts of a group have the same reward, so that nothing is learnt from them."""
    _, place_N = np.unique(group_N, return_inverse=True)
    lowest, highest = np.full(len(reward_N), np.inf), np.full(len(reward_N), -np.inf)
    np.minimum.at(lowest, place_N, reward_N)
    np.maximum.at(highest, place_N, reward_N)
    return (lowest == highest)[place_N]


def overlong_penalty(
    length_N: Int[np.ndarray, " N"], max_length: int, buffer: int
) -> Float[np.ndarray, " N"]:
    """0 up to max_length - buffer tokens, then down to -1 at max_length and beyond.

    To be added to rewards (DAPO, arXiv:2503.14476, eq. 13). ValueError where `buffer` does not fit.
    """
    if not 0 < buffer <= max_length:
        raise ValueError(
            f"buffer must be a number of tokens from 1 to max_length = {max_length}, got {buffer}"
        )
    over_N = np.asarray(length_N, np.float64) - (max_length - buffer)
    return -np.clip(over_N / buffer, 0.0, 1.0)


def _members(
    reward_N: Rewards, group_N: Groups
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """For every rollout, its group's place among the groups, and that group's size."""
    if len(reward_N) != len(group_N):
        raise ValueError(
            f"every rollout needs a reward and a group, got {len(reward_N)} rewards and "
            f"{len(group_N)} groups"
        )
    names, place_N, sizes = np.unique(group_N, return_inverse=True, return_counts=True)
    if np.any(sizes == 1):
        raise ValueError(
            f"a group needs 2 rollouts or more, got 1 in the groups {names[sizes == 1][:8]}; "
            "draw more for each prompt, or leave these out"
        )
    return place_N, sizes[place_N]


def _sums(value_N: Float[np.ndarray, " N"], place_N: Int[np.ndarray, " N"]):
    """For every rollout, the sum over its group."""
    return np.bincount(place_N, weights=np.asarray(value_N, np.float64))[place_N]
