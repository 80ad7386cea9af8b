"""kanana_post with few steps and a small model, to be killed anywhere in its pipeline."""

from experiments import kanana_post
from kanana_jax.jobs import pipeline

run = kanana_post.run

_STEPS = {"base": 30, "mid": 30}
_FEW = ("online.num_heldout=8", "online.rollouts.num_prompts=8")
_ROUNDS = {
    "rejection": ("rejection.steps_per_round=6", "rejection.num_heldout=4"),
    "dpo": _FEW,
    "chosen": ("rejection.num_heldout=4", "rejection.rollouts.num_prompts=8"),
    "online": ("online.steps_per_round=4", *_FEW),
    "online_by_model": ("online.steps_per_round=4", *_FEW),
    "calibration": ("calibration.steps_per_round=6", "calibration.num_heldout=8"),
}


def experiment() -> pipeline.Pipeline:
    made = kanana_post.experiment()
    edits = []
    for stage in made.stages:
        num_steps = _STEPS.get(stage.name, 12)
        own = (
            f"train.num_steps={num_steps}",
            f"train.eval_interval_steps={num_steps}",
            "train.eval_batches=1",
            "train.checkpoint_interval_steps=5",
            "optimizer.schedule.warmup_steps=1",
            "optimizer.schedule.decay_steps=4",
            "data.batch_size=4",
            *_ROUNDS.get(stage.name, ()),
        )
        edits += [f"{stage.name}.{one}" for one in own]
        if not stage.init_from:
            edits += [f"{stage.name}.model.hidden_size=64", f"{stage.name}.model.num_experts=4"]
    return made.edited(edits)
