"""Runs tools and graders in processes of their own, with limits, never in the trainer."""

from kanana_jax.rollouts.sandbox.call import Call, Limits, Outcome, Runner, Status
from kanana_jax.rollouts.sandbox.pool import Pool

__all__ = ["Call", "Limits", "Outcome", "Pool", "Runner", "Status"]
