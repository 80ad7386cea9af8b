"""Fine-tuning on conversations: what is trained on, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
import tiny_jobs

from kanana_jax import config
from kanana_jax.jobs import sft, training

WORDS = ("muon", "clip", "polar", "express")


@pytest.fixture
def cfg(tmp_path) -> sft.Config:
    """Conversations in which the answer repeats the question, which is long and random."""
    rng = np.random.default_rng(0)
    path = tmp_path / "conversations.jsonl"
    with path.open("w") as file:
        for number in range(60):
            asked = " ".join(rng.choice(WORDS, size=4))
            turns = [("user", f"{asked} {number}"), ("assistant", "muon clip")]
            messages = [{"role": role, "content": content} for role, content in turns]
            file.write(json.dumps({"messages": messages}) + "\n")
    data = config.DataConfig(
        paths=(str(path),), seq_len=64, batch_size=8, heldout_fraction=0.2,
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    base = tiny_jobs.pretraining(path, data=data, mesh=config.MeshConfig())
    return sft.Config(
        **{f.name: getattr(base, f.name) for f in dataclasses.fields(config.TrainingConfig)}
    )


def test_only_the_assistants_turns_are_trained_on(cfg, tmp_path):
    text = sft.JOB.read(cfg.data, tmp_path / "cache", print)
    batch = sft.JOB.source(text.open(), cfg.data, training.data_stages(cfg), None).batch(0, None)
    trained = batch.targets[batch.loss_mask == 1].tolist()
    answer = [*b"muon clip", text.tokenizer.eos_id]
    assert trained == answer * (len(trained) // len(answer)) and trained


def test_a_file_without_answers_is_refused_before_anything_is_written(cfg, tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "why?"}]}) + "\n")
    with pytest.raises(Exception, match="assistant") as caught:
        sft.run(cfg.edited([f"data.paths={path}"]), tmp_path / "work")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "work").exists()
