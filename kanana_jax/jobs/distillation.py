"""Distillation: a student learns what a teacher says at every position, not its text alone.

The teacher is a model folder, of another shape as a rule and with the student's tokens. It is held
beside the student, spread over the same mesh, and is in no checkpoint; or `distill.outputs=cached`
keeps what is read of it. The data are those of pretraining; `over` takes another job's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanana_jax import config, data, model
from kanana_jax.jobs import initial, pretrain, stored_teacher, training
from kanana_jax.objectives import soft_targets
from kanana_jax.objectives.distillation import Distillation, Teaching
from kanana_jax.report.curves import Curve, Row
from kanana_jax.train import fit, state, teacher
from kanana_jax.weights import native


@dataclass(frozen=True, kw_only=True)
class Config(config.TrainingConfig):
    """The settings of every job that trains, and `distill`."""

    distill: config.DistillConfig = config.DistillConfig()  # noqa: RUF009
    # Its term goes with the cross-entropy, of which there is none by default.
    train: config.TrainConfig = config.TrainConfig(z_loss_weight=0.0)  # noqa: RUF009

    def __post_init__(self):
        super().__post_init__()
        if self.train.z_loss_weight and not self.distill.ce_weight:
            raise config.ConfigError(
                "train.z_loss_weight must be 0 where distill.ce_weight is, for it goes with the "
                f"cross-entropy; got {self.train.z_loss_weight:g}"
            )


def objective(cfg: Config) -> Distillation:
    """The loss of the settings."""
    chosen = cfg.distill
    made: dict[str, soft_targets.Divergence] = {
        "forward_kl": soft_targets.ForwardKL(),
        "reverse_kl": soft_targets.ReverseKL(),
        "top_k": soft_targets.TopK(chosen.num_tokens),
        "sampled": soft_targets.Sampled(chosen.num_tokens, chosen.temperature),
    }
    teaching = None
    if chosen.weight:
        teaching = Teaching(made[chosen.divergence], chosen.weight, chosen.outputs == "live")
    return Distillation(teaching, chosen.ce_weight, cfg.train.z_loss_weight)


def shape_of_teacher(cfg: Config) -> config.ModelConfig:
    """Raises ConfigError where it reads other tokens, CheckpointError where it is no folder."""
    folder = _folder(cfg)
    if not folder:
        return cfg.model
    initial.check_tokenizer(folder, cfg.data.tokenizer, "distill.teacher")
    shape = native.read_description(Path(folder)).cfg
    if shape.vocab_size != cfg.model.vocab_size:
        raise config.ConfigError(
            f"distill.teacher: expected {cfg.model.vocab_size} tokens, as the student has, got "
            f"{shape.vocab_size} in {folder}; a teacher needs the student's tokenizer"
        )
    return shape


def _folder(cfg: Config) -> str:
    return cfg.distill.teacher.replace("{seed}", str(cfg.train.seed))


def _of_step(cfg: Config) -> config.ModelConfig | None:
    """The shape of the teacher that a step runs."""
    if not cfg.distill.weight:
        return None
    shape = shape_of_teacher(cfg)
    return shape if cfg.distill.outputs == "live" else None


def _restored(cfg: Config, built: training.Built, start: training.Start) -> model.Weights:
    folder = _folder(cfg)
    if not folder:
        return start.first_weights()
    like = state.abstract_weights(shape_of_teacher(cfg), built.mesh)
    return native.restore(Path(folder), like)


def _frozen(built: training.Built, start: training.Start) -> Mapping[str, model.Weights]:
    if built.steps.cfg.teacher is None:
        return {}
    return {teacher.NAME: _restored(built.own, built, start)}


def check(corpus: Any, cfg: Config) -> None:
    """Raises ConfigError where nobody is named who could teach."""
    if cfg.distill.weight and not cfg.distill.teacher and not cfg.train.init_from:
        raise config.ConfigError(
            "distill.teacher must name a model folder, got nothing; only a student with "
            "train.init_from can be its own teacher"
        )


def over(job: training.Job) -> training.Job:
    """Distillation on the data of `job`, which must not depend on the weights."""

    def source(
        corpus: Any,
        cfg: config.DataConfig,
        stages: Sequence[data.Stage],
        built: training.Built,
    ) -> fit.Source:
        found = job.source(corpus, cfg, stages, built)
        teaching, start = built.objective.teaching, built.start
        if teaching is None or teaching.is_live:
            return found
        assert start is not None
        unheld = stored_teacher.Teacher(
            shape_of_teacher(built.own), lambda: _restored(built.own, built, start)
        )
        return stored_teacher.source(found, cfg, stages[0].num_batches, built, start, unheld)

    return job._replace(
        objective=objective,
        teacher=_of_step,
        source=source,
        check=check,
        own=lambda cfg: cfg,
        frozen=_frozen,
        pictures=(DIVERGENCE, *job.pictures),
    )


DIVERGENCE = Curve(
    name="divergence",
    title="How far the student is from its teacher",
    reading="The divergence that is trained on, and the student's loss on the text, in nats per "
    "token of the training batches.",
    rows=(
        Row(key="divergence", label="divergence", is_smoothed=True),
        Row(key="nll", label="text", is_smoothed=True),
    ),
)

JOB = over(pretrain.JOB)
run = training.of(JOB)
