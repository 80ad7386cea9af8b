"""Settings: frozen dataclasses, checked when they are built; edits and JSON both ways.

An experiment is a Python function that builds a configuration out of these blocks; a variant is a
function that edits another. Nothing here needs anything but the standard library.
"""

from kanana_jax.config.data import DataConfig
from kanana_jax.config.edits import diff, edit, from_json, to_json
from kanana_jax.config.execution import ExecutionConfig, Implementation
from kanana_jax.config.experiment import (
    Arm,
    Experiment,
    edit_arm,
    edit_experiment,
    edited_paths,
    known_part,
    setting,
    single_run,
)
from kanana_jax.config.fields import ConfigError, shown, some
from kanana_jax.config.mesh import BATCH_AXES, MeshConfig
from kanana_jax.config.model import ModelConfig, YarnConfig
from kanana_jax.config.optimizer import OptimizerConfig, ScheduleConfig
from kanana_jax.config.train import GuardConfig, ResumeConfig, TrainConfig

__all__ = [
    "BATCH_AXES",
    "Arm",
    "ConfigError",
    "DataConfig",
    "ExecutionConfig",
    "Experiment",
    "GuardConfig",
    "Implementation",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ResumeConfig",
    "ScheduleConfig",
    "TrainConfig",
    "YarnConfig",
    "diff",
    "edit",
    "edit_arm",
    "edit_experiment",
    "edited_paths",
    "from_json",
    "known_part",
    "setting",
    "shown",
    "single_run",
    "some",
    "to_json",
]
