"""What the stages of a run come to, and which are refused."""

import dataclasses

import pytest

from kanana_jax import config
from kanana_jax.model import presets

YARN = config.YarnConfig(factor=2.0, original_max_positions=64)


@pytest.fixture
def cfg() -> config.StagedConfig:
    stages = (
        config.StageConfig(name="broad", tokens=3 * 4 * 64, weights=(1.0, 0.0)),
        config.StageConfig(name="long", tokens=2 * 8 * 64, batch_size=8, yarn=YARN),
        config.StageConfig(name="short", tokens=5 * 16 * 16, batch_size=16, seq_len=16),
    )
    return config.StagedConfig(
        name="staged",
        question="?",
        model=presets.tiny(),
        execution=config.ExecutionConfig(accumulation_steps=2),
        data=config.DataConfig(paths=("a.txt", "b.txt"), seq_len=64, batch_size=4),
        stages=stages,
    )


def test_stages_say_how_many_steps_a_run_has_and_what_each_is(cfg):
    assert cfg.train.num_steps == 3 + 2 + 5
    broad, long, short = cfg.in_stages()
    assert [one.num_steps for one in (broad, long, short)] == [3, 2, 5]
    assert [one.config.data.weights for one in (broad, long, short)] == [(1.0, 0.0), (), ()]
    # Micro-batches of 2 x 64 tokens in all of them.
    assert [one.config.execution.accumulation_steps for one in (broad, long, short)] == [2, 4, 2]
    assert [one.config.model.yarn for one in (broad, long, short)] == [None, YARN, None]
    assert (short.config.data.seq_len, short.config.data.batch_size) == (16, 16)
    assert all(one.config.train.num_steps == 10 for one in (broad, long, short))


def test_a_run_without_stages_is_one(cfg):
    plain = dataclasses.replace(cfg, stages=())
    assert plain.in_stages() == (config.Stage("", plain.train.num_steps, plain),)
    assert plain.rate_segments() == ()


def test_an_edit_finds_a_stage_by_its_name(cfg):
    edited = cfg.edited(["stages.long.tokens=4096", "stages.short.rope_theta=1e6"])
    assert edited.train.num_steps == 3 + 8 + 5
    assert edited.in_stages()[2].config.model.rope_theta == 1e6
    assert edited.stages[0] == cfg.stages[0]
    assert config.setting(edited, "stages.long.tokens") == 4096
    assert "stages.long.tokens" in edited.listing()
    whole = cfg.edited(['stages=[{"name": "one", "tokens": 512, "lr_begin": 1.0}]',
                        "optimizer.schedule.name=constant"])  # fmt: skip
    assert whole.rate_segments() == (config.RateSegment(2, 1.0, 1.0, "linear"),)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("stages.broad.tokens=700", r"its batch, 4 .* of 64 = 256 .* 700.* 512 and 768"),
        ("stages.short.tokens=9", r"multiple of its batch, 16 .* got 9, near which are 256"),
        ("stages.short.seq_len=48", r"multiple of its batch, 16 sequences of 48"),
        ("stages.short.tokens=320 stages.short.seq_len=20", r"must divide data.seq_len = 64"),
        ("stages.broad.weights=1", r"one weight per path .* 1 weights for 2 paths"),
        ("stages.broad.weights=0,0", r"'broad' must draw from some source"),
        ("stages.broad.lr_begin=1", r"all stages must have an lr_begin or none: .* long, short"),
        ("stages.broad.lr_end=1", r"'broad' has an lr_end, so it needs an lr_begin"),
        ("stages.broad.name=long", r"names of their own, got long, long, short"),
        ("stages.wide.tokens=4", r"'stages.wide.tokens': there are broad, long, short"),
        ("stages.wide=4", r"stages.wide is a group of settings"),
        ("stages=4", r"stages must be a JSON list of groups, got '4'"),
        ("train.num_steps=4", r"num_steps is what the tokens of the stages come to"),
        ("execution.accumulation_steps=8", r"must divide data.batch_size = 4"),
        ("stages.long.tokens=640 stages.long.batch_size=5", r"micro-batches, 3 = .* got 5"),
    ],
)  # fmt: skip
def test_stages_that_cannot_be_are_refused_with_their_numbers(cfg, edit, message):
    with pytest.raises(config.ConfigError, match=message):
        cfg.edited(edit.split())


def test_rates_of_stages_leave_the_schedule_its_warm_up_alone(cfg):
    edits = [f"stages.{name}.lr_begin=1" for name in ("broad", "long", "short")]
    with pytest.raises(config.ConfigError, match=r"optimizer.schedule.name=constant, got wsd"):
        cfg.edited(edits)
    edits += ["optimizer.schedule.name=constant", "stages.short.lr_end=0.1"]
    made = cfg.edited([*edits, "stages.short.lr_shape=cosine"])
    assert made.rate_segments()[2] == config.RateSegment(5, 1.0, 0.1, "cosine")
