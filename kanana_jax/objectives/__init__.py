"""What training minimises, as pure functions of arrays."""

from kanana_jax.objectives.next_token import NextToken
from kanana_jax.objectives.objective import Objective, Seen

__all__ = ["NextToken", "Objective", "Seen"]
