"""Figures of how tries of tasks ended, each with the standard error from sampling the tasks.

    success          mean reward; of each family as success_FAMILY where there are several
    valid_turns      the share in which the model ended every turn and each can be read
    tool_call_rate   of tasks with tools, the share that called one
    over_length      the share that a limit of tokens or turns cut off
    answer_bytes     the length of the last message

A try without a reward, because a tool or grader gave nothing in time, counts as 0; `ungraded` is
the share of such tries.
"""

from collections.abc import Sequence

from kanana_jax.evaluate import pass_at_k
from kanana_jax.rollouts.episodes import Episode


def summarize(played: Sequence[Episode], prefix: str = "") -> dict[str, float]:
    """The figures at the top of the module, from one try of each task."""
    values = {"success": [one.reward or 0.0 for one in played]}
    families = list(dict.fromkeys(one.task.family for one in played))
    for family in families if len(families) > 1 else ():
        values[f"success_{family}"] = [
            one.reward or 0.0 for one in played if one.task.family == family
        ]
    values["valid_turns"] = [float(one.is_valid) for one in played]
    with_tools = [one for one in played if one.task.tools]
    if with_tools:
        values["tool_call_rate"] = [float(one.num_calls > 0) for one in with_tools]
    values["over_length"] = [float(one.is_cut) for one in played]
    values["answer_bytes"] = [float(len(one.answer.encode())) for one in played]
    values["ungraded"] = [float(one.reward is None) for one in played]
    found = {f"{prefix}{name}": pass_at_k.mean(numbers) for name, numbers in values.items()}
    return pass_at_k.named(found)


def passes(
    groups: Sequence[Sequence[Episode]], ks: Sequence[int], threshold: float
) -> dict[str, float]:
    """pass@k of groups of tries, one group per task; a reward of at least `threshold` is a pass."""
    num_right = [sum((one.reward or 0.0) >= threshold for one in group) for group in groups]
    sizes = {len(group) for group in groups}
    (size,) = sizes
    return pass_at_k.named({f"pass@{k}": pass_at_k.pass_at_k(num_right, size, k) for k in ks})
