"""Whether a rewrite says what its source says: numbers, units, names, sentences, in code."""

from kanana_jax.synthesize.fidelity.checking import (
    KINDS,
    Limits,
    Problem,
    check,
    check_answer,
    prepare,
)

__all__ = ["KINDS", "Limits", "Problem", "check", "check_answer", "prepare"]
