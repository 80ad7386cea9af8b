"""Muon, Polar Express and QK-Clip as optax transforms. Needs jax, optax and numpy only."""

from kanana_jax.optim import schedules
from kanana_jax.optim.clipping import QKClipState, clip_report, qk_clip
from kanana_jax.optim.coefficients import (
    POLAR_EXPRESS_5,
    POLAR_EXPRESS_6,
    POLAR_EXPRESS_8,
    PolarSchedule,
    newton_schulz,
    polar_express,
)
from kanana_jax.optim.matrices import fans, map_matrices, merge_matrices, split_matrices
from kanana_jax.optim.orthogonalize import orthogonality_error, polar
from kanana_jax.optim.recipes import adamw, muon, muonclip
from kanana_jax.optim.rules import assign, partition
from kanana_jax.optim.specs import MatrixSpec, QKClipSpec
from kanana_jax.optim.transforms import (
    SHAPE_RULES,
    ScaleByMuonState,
    scale_by_muon,
    scale_by_shape,
)

__all__ = [
    "POLAR_EXPRESS_5",
    "POLAR_EXPRESS_6",
    "POLAR_EXPRESS_8",
    "SHAPE_RULES",
    "MatrixSpec",
    "PolarSchedule",
    "QKClipSpec",
    "QKClipState",
    "ScaleByMuonState",
    "adamw",
    "assign",
    "clip_report",
    "fans",
    "map_matrices",
    "merge_matrices",
    "muon",
    "muonclip",
    "newton_schulz",
    "orthogonality_error",
    "partition",
    "polar",
    "polar_express",
    "qk_clip",
    "scale_by_muon",
    "scale_by_shape",
    "schedules",
    "split_matrices",
]
