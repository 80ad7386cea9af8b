"""Who teaches a student: a model folder, or the student as it was before its first step."""

from pathlib import Path
from typing import NamedTuple

from kanana_jax import config, model
from kanana_jax.jobs import initial
from kanana_jax.jobs.job import Built, Start
from kanana_jax.train import state
from kanana_jax.weights import native


class Known(NamedTuple):
    """What decides who teaches whom."""

    distill: config.DistillConfig
    train: config.TrainConfig
    student: config.ModelConfig
    tokenizer: str  # data.tokenizer

    @property
    def folder(self) -> str:
        """The teacher's folder; empty: the student is held to what it was."""
        return self.distill.teacher.replace("{seed}", str(self.train.seed))


def shape(own: Known) -> config.ModelConfig:
    """The teacher's shape.

    Raises ConfigError where it reads other tokens, CheckpointError where it is no folder.
    """
    if not own.folder:
        return own.student
    initial.check_tokenizer(own.folder, own.tokenizer, "distill.teacher")
    found = native.read_description(Path(own.folder)).cfg
    if found.vocab_size != own.student.vocab_size:
        raise config.ConfigError(
            f"distill.teacher: expected {own.student.vocab_size} tokens, as the student has, got "
            f"{found.vocab_size} in {own.folder}; a teacher needs the student's tokenizer"
        )
    return found


def expect(own: Known) -> None:
    """Raises ConfigError where the settings name nobody who could teach."""
    if own.distill.weight and not own.folder and not own.train.init_from:
        raise config.ConfigError(
            "distill.teacher must name a model folder, got nothing; only a student with "
            "train.init_from can be its own teacher"
        )


def shape_in_step(own: Known) -> config.ModelConfig | None:
    """The shape of the teacher that a step runs."""
    if not own.distill.weight:
        return None
    found = shape(own)
    return found if own.distill.outputs == "live" else None


def restored(own: Known, built: Built, start: Start) -> model.Weights:
    """The teacher's weights, spread over the mesh as the student's are."""
    if not own.folder:
        return start.first_weights()
    like = state.abstract_weights(shape(own), built.mesh)
    return native.restore(Path(own.folder), like)
