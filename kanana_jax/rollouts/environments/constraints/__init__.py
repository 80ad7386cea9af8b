"""Texts about a topic under constraints, each with a checker, in English and Korean."""

from kanana_jax.rollouts.environments.constraints.family import FAMILY

__all__ = ["FAMILY"]
