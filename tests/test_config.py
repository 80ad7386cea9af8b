"""Typed edits of a configuration."""

import dataclasses
import json

import pytest

from kanana_jax import config


@pytest.fixture
def exp() -> config.Experiment:
    model = config.ModelConfig(
        vocab_size=0,
        hidden_size=8,
        num_layers=2,
        num_dense_layers=1,
        num_heads=2,
        q_lora_rank=None,
        kv_lora_rank=4,
        qk_nope_head_dim=4,
        qk_rope_head_dim=2,
        v_head_dim=4,
        intermediate_size=8,
        moe_intermediate_size=4,
        num_experts=4,
        num_experts_per_token=2,
    )
    return config.Experiment(name="test", question="?", model=model)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("optimizer.lr=3e-3", 3e-3),
        ("train.num_steps=7", 7),
        ("model.q_lora_rank=16", 16),
        ("model.q_lora_rank=none", None),
        ("model.zero_centered_gamma=true", True),
        ("data.paths=a.txt, b/*.md", ("a.txt", "b/*.md")),
        ("data.paths=", ()),
        ("optimizer.schedule.name=cosine", "cosine"),
        ("lrs=0.1,0.2", (0.1, 0.2)),
        ("data.tokenizer=a=b", "a=b"),
    ],
)
def test_an_edit_is_read_by_the_type_of_its_field(exp, text, value):
    found = config.edit(exp, [text])
    for name in text.split("=")[0].split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer.lr", "path=value"),
        ("nothing=1", "unknown setting 'nothing'"),
        ("optimizer.rate=1", "OptimizerConfig has .*lr"),
        ("optimizer=adamw", "optimizer is a group"),
        ("optimizer.lr.x=1", "lr is a value"),
        ("train.num_steps=1.5", "must be of type int"),
        ("train.num_steps=many", "must be of type int"),
        ("train.num_steps=0", "must be positive"),
        ("optimizer.lr=nan", "must be positive"),
        ("optimizer.lr=inf", "must be positive"),
        ("model.zero_centered_gamma=yes", "true or false"),
        ("optimizer.name=sgd", "one of adamw, muon, muonclip"),
        ("model.num_experts_per_token=5", "at most 4"),
        ("model.num_expert_groups=3", "must divide"),
        ("model.num_dense_layers=3", "num_dense_layers"),
        ("arms=a", "cannot be given as text"),
    ],
)
def test_a_bad_edit_is_one_clear_line(exp, text, message):
    with pytest.raises(config.ConfigError, match=message) as caught:
        config.edit(exp, [text])
    assert "\n" not in str(caught.value)


def test_edits_leave_the_original_alone(exp):
    before = dataclasses.asdict(exp)
    config.edit(exp, ["optimizer.lr=5"])
    assert dataclasses.asdict(exp) == before


def test_diff_names_each_change(exp):
    other = config.edit(exp, ["optimizer.lr=5", "train.num_steps=3"])
    lines = config.diff(dataclasses.asdict(exp), dataclasses.asdict(other))
    assert lines == ["optimizer.lr: 0.001 -> 5.0", "train.num_steps: 1000 -> 3"]


def test_json_holds_every_setting(exp):
    assert json.loads(config.to_json(exp))["model"]["kv_lora_rank"] == 4
