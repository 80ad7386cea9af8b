"""On-policy distillation: what a student is asked about is what it wrote."""

import dataclasses

import numpy as np
import pytest
import tiny_jobs

from kanana_jax import config
from kanana_jax.data.chat import Origin
from kanana_jax.jobs import on_policy_distillation
from kanana_jax.report import metrics
from kanana_jax.rollouts import store

FAMILY = "chain_sum@3"


@pytest.fixture
def cfg(tmp_path):
    path = tiny_jobs.write_solved(tmp_path / "conversations.jsonl", FAMILY)
    data = config.DataConfig(
        paths=(str(path),), seq_len=64, batch_size=8, heldout_fraction=0.2,
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    rollouts = config.RolloutConfig(
        families=(FAMILY,), allow=("chain_sum",), languages=("en",), num_prompts=2,
        num_samples=4, max_tokens=6, max_turns=1, num_rows=4,
    )  # fmt: skip
    base = tiny_jobs.pretraining(path, data=data, mesh=config.MeshConfig())
    fields = {f.name: getattr(base, f.name) for f in dataclasses.fields(config.TrainingConfig)}
    fields["train"] = dataclasses.replace(
        base.train, num_steps=2, checkpoint_interval_steps=2, z_loss_weight=0.0
    )
    made = on_policy_distillation.Config(
        **fields,
        distill=config.DistillConfig(divergence="reverse_kl"),
        on_policy=on_policy_distillation.OnPolicyConfig(rollouts=rollouts, steps_per_round=1),
    )
    return made.edited(["optimizer.name=adamw"])


def test_a_cached_teacher_is_refused(cfg):
    with pytest.raises(config.ConfigError, match=r"needs distill.outputs=live"):
        cfg.edited(["distill.divergence=top_k", "distill.outputs=cached"])


@pytest.mark.long
def test_every_round_is_of_the_students_own_tokens_and_a_student_of_itself_learns_nothing_at_first(
    cfg, tmp_path
):
    shape = dataclasses.replace(cfg.model, vocab_size=258)
    folder = tiny_jobs.write_model(tmp_path / "model", shape)
    cfg = cfg.edited([f"train.init_from={folder}"])
    on_policy_distillation.run(cfg, tmp_path / "work")
    run = tmp_path / "work" / "run"
    for number in range(2):
        found = store.read(run, number)
        assert found is not None and len(found.examples) == 8
        for example in found.examples:
            (segment,) = example.segments
            assert 0 < np.sum(np.asarray(segment.origins) == Origin.MODEL) <= 7
    # The teacher is what the student was before the first step, and not after it.
    columns = metrics.read_metrics(run / metrics.METRICS_NAME)
    assert columns["divergence"].values_N[0] == pytest.approx(0.0, abs=1e-5)
    assert columns["divergence"].values_N[1] > 1e-5
