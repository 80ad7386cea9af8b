"""Families of tasks, with tools and without, in English and Korean."""

from kanana_jax.rollouts.environments.drawing import make, tasks_of
from kanana_jax.rollouts.environments.families import FAMILIES, of

__all__ = ["FAMILIES", "make", "of", "tasks_of"]
