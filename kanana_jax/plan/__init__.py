"""What a training step needs on machines that are not here: python -m kanana_jax.plan."""

from kanana_jax.plan.compile import Plan, compile_plan

__all__ = ["Plan", "compile_plan"]
