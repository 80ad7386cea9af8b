"""Muon, Polar Express and QK-Clip as optax transforms. Needs jax, optax and numpy only."""

from kanana_jax.optim import layouts, schedules
from kanana_jax.optim.accumulation import accumulate
from kanana_jax.optim.averages import averaged_params, weight_average, with_master_weights
from kanana_jax.optim.clipping import QKClipState, clip_report, qk_clip
from kanana_jax.optim.coefficients import (
    POLAR_EXPRESS_5,
    POLAR_EXPRESS_6,
    POLAR_EXPRESS_8,
    PolarSchedule,
    cans,
    deepseek_v4,
    modded_nanogpt,
    newton_schulz,
    polar_express,
    turbo_muon,
)
from kanana_jax.optim.factors import RateFactors, scale_by_factors
from kanana_jax.optim.guards import SkipState, forget_norms, skip_bad_steps, skip_report
from kanana_jax.optim.matrices import fans, map_matrices, merge_matrices, split_matrices
from kanana_jax.optim.orthogonalize import orthogonality_error, polar, polar_flops
from kanana_jax.optim.recipes import adamuon, adamw, muon, muon_hyperball, muonclip, normuon
from kanana_jax.optim.rules import assign, partition
from kanana_jax.optim.specs import MatrixSpec, QKClipSpec
from kanana_jax.optim.transforms import (
    SHAPE_RULES,
    ScaleByMuonState,
    scale_by_muon,
    scale_by_shape,
)
from kanana_jax.optim.variants import hyperball, scale_by_entry, scale_by_neuron

__all__ = [
    "POLAR_EXPRESS_5",
    "POLAR_EXPRESS_6",
    "POLAR_EXPRESS_8",
    "SHAPE_RULES",
    "MatrixSpec",
    "PolarSchedule",
    "QKClipSpec",
    "QKClipState",
    "RateFactors",
    "ScaleByMuonState",
    "SkipState",
    "accumulate",
    "adamuon",
    "adamw",
    "assign",
    "averaged_params",
    "cans",
    "clip_report",
    "deepseek_v4",
    "fans",
    "forget_norms",
    "hyperball",
    "layouts",
    "map_matrices",
    "merge_matrices",
    "modded_nanogpt",
    "muon",
    "muon_hyperball",
    "muonclip",
    "newton_schulz",
    "normuon",
    "orthogonality_error",
    "partition",
    "polar",
    "polar_express",
    "polar_flops",
    "qk_clip",
    "scale_by_entry",
    "scale_by_factors",
    "scale_by_muon",
    "scale_by_neuron",
    "scale_by_shape",
    "schedules",
    "skip_bad_steps",
    "skip_report",
    "split_matrices",
    "turbo_muon",
    "weight_average",
    "with_master_weights",
]
