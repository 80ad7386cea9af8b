"""Distillation: a student learns what a teacher says at every position, not its text alone.

The teacher is a model folder, usually of another shape, with the student's tokens. It is held next
to the student, spread over the same mesh, and is in no checkpoint; `distill.outputs=cached` keeps
its outputs instead. The data are pretraining's; `over` takes another job's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kanana_jax import config, data, model
from kanana_jax.jobs import pretrain, stored_teacher, teachers, training
from kanana_jax.objectives import soft_targets
from kanana_jax.objectives.distillation import Distillation, Teaching
from kanana_jax.report.curves import Curve, Row
from kanana_jax.train import fit, teacher


@dataclass(frozen=True, kw_only=True)
class Config(config.TrainingConfig):
    """The settings of every job that trains, and `distill`."""

    distill: config.DistillConfig = config.DistillConfig()  # noqa: RUF009
    # The z-loss goes with the cross-entropy, which has weight 0 by default.
    train: config.TrainConfig = config.TrainConfig(z_loss_weight=0.0)  # noqa: RUF009

    def __post_init__(self):
        super().__post_init__()
        if self.train.z_loss_weight and not self.distill.ce_weight:
            raise config.ConfigError(
                "train.z_loss_weight must be 0 where distill.ce_weight is, for it goes with the "
                f"cross-entropy; got {self.train.z_loss_weight:g}"
            )


def known(cfg: Config) -> teachers.Known:
    return teachers.Known(
        distill=cfg.distill, train=cfg.train, student=cfg.model, tokenizer=cfg.data.tokenizer
    )


def objective(chosen: config.DistillConfig, z_weight: float) -> Distillation:
    """The loss of the settings."""
    made: dict[str, soft_targets.Divergence] = {
        "forward_kl": soft_targets.ForwardKL(),
        "reverse_kl": soft_targets.ReverseKL(),
        "top_k": soft_targets.TopK(chosen.num_tokens),
        "sampled": soft_targets.Sampled(chosen.num_tokens, chosen.temperature),
    }
    teaching = None
    if chosen.weight:
        teaching = Teaching(made[chosen.divergence], chosen.weight, chosen.outputs == "live")
    return Distillation(teaching, chosen.ce_weight, z_weight)


def frozen(built: training.Built, start: training.Start) -> Mapping[str, model.Weights]:
    """The teacher's weights, where a step runs it; `built.own` says who the teacher is."""
    if built.steps.cfg.teacher is None:
        return {}
    return {teacher.NAME: teachers.restored(built.own, built, start)}


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
            teachers.shape(built.own), lambda: teachers.restored(built.own, built, start)
        )
        return stored_teacher.source(found, cfg, stages[0].num_batches, built, start, unheld)

    return job._replace(
        objective=lambda cfg: objective(cfg.distill, cfg.train.z_loss_weight),
        teacher=lambda cfg: teachers.shape_in_step(known(cfg)),
        source=source,
        check=lambda corpus, cfg: teachers.expect(known(cfg)),
        own=known,
        frozen=frozen,
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
