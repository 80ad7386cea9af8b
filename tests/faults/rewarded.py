"""rl_logic with few steps, its tries cut into rounds, to be killed anywhere."""

from experiments import rl_logic
from kanana_jax.jobs import pipeline

run = rl_logic.run


def experiment() -> pipeline.Pipeline:
    made = rl_logic.experiment()
    edits = ["rl.arms=grpo,squared", "rl.rl.tokens_per_round=12", "rl.rl.epochs=2"]
    edits += ["base.stages.steps.tokens=40960", "base.stages.answers.tokens=20480"]
    edits += ["rl.train.num_steps=24", "more.train.num_steps=10"]
    for stage, num_steps in (("base", 30), ("rl", 24), ("more", 10)):
        edits += [
            f"{stage}.train.eval_interval_steps={num_steps}",
            f"{stage}.train.eval_batches=1",
            f"{stage}.train.checkpoint_interval_steps=3",
            f"{stage}.optimizer.schedule.warmup_steps=1",
            f"{stage}.optimizer.schedule.decay_steps=4",
        ]
    return made.edited(edits)
