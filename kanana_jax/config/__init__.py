"""Settings: frozen dataclasses, checked when they are built; edits and JSON both ways.

An experiment is a Python function that builds a job's configuration out of these blocks; a variant
is a function that edits another. Nothing here needs anything but the standard library.
"""

from kanana_jax.config.audio import AudioConfig
from kanana_jax.config.data import DataConfig
from kanana_jax.config.distill import DistillConfig
from kanana_jax.config.edits import diff, edit, from_json, parse, to_json
from kanana_jax.config.execution import ExecutionConfig, Implementation
from kanana_jax.config.fields import ConfigError, nearest, shown, some
from kanana_jax.config.fields import names as setting_names
from kanana_jax.config.images import ImageTasksConfig
from kanana_jax.config.job import Stage, TrainingConfig, check_allowed, edited_paths, setting
from kanana_jax.config.lora import LoraConfig
from kanana_jax.config.mesh import BATCH_AXES, MeshConfig
from kanana_jax.config.model import Llama3RopeConfig, ModelConfig, YarnConfig
from kanana_jax.config.optimizer import OptimizerConfig, ScheduleConfig
from kanana_jax.config.rl import RLConfig
from kanana_jax.config.rollouts import RolloutConfig
from kanana_jax.config.stages import RateSegment, StageConfig, StagedConfig
from kanana_jax.config.surgery import SurgeryConfig
from kanana_jax.config.train import (
    AverageConfig,
    GuardConfig,
    ProfileConfig,
    ResumeConfig,
    TrainConfig,
)
from kanana_jax.config.vision import VisionConfig

__all__ = [
    "BATCH_AXES",
    "AudioConfig",
    "AverageConfig",
    "ConfigError",
    "DataConfig",
    "DistillConfig",
    "ExecutionConfig",
    "GuardConfig",
    "ImageTasksConfig",
    "Implementation",
    "Llama3RopeConfig",
    "LoraConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ProfileConfig",
    "RLConfig",
    "RateSegment",
    "ResumeConfig",
    "RolloutConfig",
    "ScheduleConfig",
    "Stage",
    "StageConfig",
    "StagedConfig",
    "SurgeryConfig",
    "TrainConfig",
    "TrainingConfig",
    "VisionConfig",
    "YarnConfig",
    "check_allowed",
    "diff",
    "edit",
    "edited_paths",
    "from_json",
    "nearest",
    "parse",
    "setting",
    "setting_names",
    "shown",
    "some",
    "to_json",
]
