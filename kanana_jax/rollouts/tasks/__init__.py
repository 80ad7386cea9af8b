"""Reasoning problems with and without traces, in English and Korean, none of them twice."""

from kanana_jax import extras

with extras.needed("train"):
    from kanana_jax.rollouts.tasks.drawing import constant_accuracy, documents, mixed, problems
    from kanana_jax.rollouts.tasks.families import FAMILIES
    from kanana_jax.rollouts.tasks.problem import (
        LANGUAGES,
        Family,
        Language,
        Problem,
        answer_of,
        document,
        follows,
        is_heldout,
        is_right,
        make,
        prompt_text,
        trace_of,
    )

__all__ = [
    "FAMILIES",
    "LANGUAGES",
    "Family",
    "Language",
    "Problem",
    "answer_of",
    "constant_accuracy",
    "document",
    "documents",
    "follows",
    "is_heldout",
    "is_right",
    "make",
    "mixed",
    "problems",
    "prompt_text",
    "trace_of",
]
