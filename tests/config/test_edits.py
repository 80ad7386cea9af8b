"""Typed edits of a configuration."""

import contextlib
import dataclasses
import io
import json
import os
import sys
import tempfile

import command_line
import hypothesis
import pytest
from hypothesis import strategies as st

from kanana_jax import config
from kanana_jax.jobs import pipeline, pretrain, sweep

QUANTILE = ("train.router_balance=quantile",)


@pytest.fixture
def cfg() -> pretrain.Config:
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
    return pretrain.Config(name="test", question="?", model=model)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("optimizer.lr=3e-3", 3e-3),
        ("train.num_steps=7", 7),
        ("model.q_lora_rank=16", 16),
        ("model.q_lora_rank=none", None),
        ("model.zero_centered_gamma=true", True),
        ("data.paths=a.txt, b/*.md", ("a.txt", "b/*.md")),
        ("data.paths=[]", ()),
        ('data.paths=["a, b.txt", "{c,d}.md"]', ("a, b.txt", "{c,d}.md")),
        ("data.paths=[ab].txt", ("[ab].txt",)),
        ("data.paths=file:///a%20b.txt", ("/a b.txt",)),
        ("data.paths=zip://a.txt::b.zip", ("zip://a.txt::b.zip",)),
        ('data.cache_dir=""', ""),
        ('data.cache_dir=" a"', " a"),
        ("data.cache_dir=a,b", "a,b"),
        ("resume.allow=train.num_steps, mesh", ("train.num_steps", "mesh")),
        ("resume.allow=model.yarn.factor", ("model.yarn.factor",)),
        ("mesh.data=-1", -1),
        ("model.vocab_size=0", 0),
        ("optimizer.schedule.final_ratio=1", 1.0),
        ("name=\ud55c\uae00 v1.2", "\ud55c\uae00 v1.2"),
        ("optimizer.schedule.name=cosine", "cosine"),
        ("execution.scan_layers=auto", "auto"),
        ("execution.scan_layers=False", False),
        ("execution.loss_chunk_tokens=auto", "auto"),
        ("execution.loss_chunk_tokens=512", 512),
        ("execution.accumulation_steps=4", 4),
        ("profile.steps=3:4", "3:4"),
        ('profile.steps=""', ""),
        ("data.tokenizer=a=b", "a=b"),
    ],
)
def test_an_edit_is_read_by_the_type_of_its_field(cfg, text, value):
    found = config.edit(cfg, [text])
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
        ("train.eval_batches=0", r"must lie in \[1, 2147483647\] .*got 0"),
        ("optimizer.lr=nan", "optimizer.lr must lie in .*got nan"),
        ("optimizer.lr=inf", "must lie in"),
        ("mesh.fsdp=0", "or be -1 .*got 0"),
        ("mesh.fsdp=-1", "at most one mesh axis may be -1, got data, fsdp"),
        ("data.paths=", "data.paths is given an empty value"),
        ("data.paths=a.txt,", "data.paths is given an empty value"),
        ("data.cache_dir= ", "data.cache_dir is given an empty value"),
        ("resume.allow=", "resume.allow is given an empty value"),
        ('data.tokenizer=""', "data.tokenizer is empty"),
        ("data.paths=[1]", r"data.paths\[0\] must be of type str, got 1"),
        ("data.paths=[a]", "must be JSON"),
        pytest.param("data.paths=" + "[" * 200_000 + "]", "must be JSON", id="deep"),
        ("data.weights=[true]", r"data.weights\[0\] must be of type float"),
        ("name=a/b", "must be the name of a folder"),
        ("name=..", "must be the name of a folder"),
        ("execution.accumulation_steps=3", "must divide data.batch_size = 8, got 3"),
        ("data.seq_len=2147483647", "batch_size x seq_len must be at most 2147483647"),
        ("train.seed=4294967296", "JAX takes 32 bits"),
        ("train.average.every_tokens=9", "every_tokens must be 0, .* data.seq_len = 2048; got 9"),
        ("optimizer.schedule.decay_steps=2000", "needs warmup_steps"),
        ("model.zero_centered_gamma=yes", "true or false"),
        ("optimizer.name=sgd", "one of adamw, muon, muonclip"),
        ("model.num_experts_per_token=5", "at most 4"),
        ("model.num_expert_groups=3", "must divide"),
        ("model.num_dense_layers=3", "num_dense_layers"),
        ("model.yarn=4", "model.yarn cannot be given as text"),
        ("model.yarn.factor=4", "yarn is a value, not a group"),
        (
            "execution.scan_layers=maybe",
            "scan_layers must be true or false; got 'maybe'; or give auto",
        ),
        ("execution.loss_chunk_tokens=many", "must be of type int; got 'many'; or give auto"),
        ("execution.loss_chunk_tokens=0", r"must lie in \[1, .*got 0; or give auto"),
        ("execution.remat=some", "one of none, dots, full; got 'some'"),
    ],
)
def test_a_bad_edit_is_one_clear_line(cfg, text, message):
    with pytest.raises(config.ConfigError, match=message) as caught:
        config.edit(cfg, [text])
    assert "\n" not in str(caught.value)


def test_quantile_balancing_asks_nothing_of_a_model_without_experts(cfg):
    dense = [f"model.num_dense_layers={cfg.model.num_layers}", "model.num_expert_groups=2"]
    assert config.edit(cfg, [*QUANTILE, *dense]).train.router_balance == "quantile"


def test_edits_leave_the_original_alone(cfg):
    before = dataclasses.asdict(cfg)
    config.edit(cfg, ["optimizer.lr=5"])
    assert dataclasses.asdict(cfg) == before


def test_diff_names_each_change(cfg):
    other = config.edit(cfg, ["optimizer.lr=5", "train.num_steps=3"])
    lines = config.diff(dataclasses.asdict(cfg), dataclasses.asdict(other))
    assert lines == ["optimizer.lr: 0.001 -> 5.0", "train.num_steps: 1000 -> 3"]


def test_json_holds_every_setting(cfg):
    assert json.loads(config.to_json(cfg))["model"]["kv_lora_rank"] == 4


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (["model.num_heads=1048576", "model.v_head_dim=4096"], "num_heads x size of a head"),
        (["data.batch_size=65536", "data.seq_len=32767"], "x num_experts_per_token must be at"),
        (["data.paths=a.txt", "data.paths=b.txt"], "given twice; give it once, as data.paths=a,b"),
        (["data.paths=a.txt,b.txt", "data.weights=1"], "one weight per path"),
        (["model.num_dense_layers=1", "model.num_experts=0"], "num_experts must be positive"),
        (
            [*QUANTILE, "model.num_expert_groups=2"],
            "num_groups_per_token = 1 of 2 groups.*set train.router_balance to sign",
        ),
        ([*QUANTILE, "model.num_experts_per_token=4"], "num_experts_per_token = num_experts = 4"),
    ],
)
def test_edits_that_clash_are_one_clear_line(cfg, edits, message):
    with pytest.raises(config.ConfigError, match=message) as caught:
        config.edit(cfg, edits)
    assert "\n" not in str(caught.value)


def test_of_two_values_for_one_number_the_later_holds(cfg):
    assert config.edit(cfg, ["train.num_steps=3", "train.num_steps=4"]).train.num_steps == 4


def test_a_list_of_numbers_is_read_by_their_type(cfg):
    edited = config.edit(cfg, ["data.paths=a,b", "data.weights=1,0.2"])
    assert edited.data.weights == (1.0, 0.2)
    assert [type(weight) for weight in edited.data.weights] == [float, float]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train.num_step", "nearest are train.num_steps"),
        ("train.", "names no setting or group 'train.'"),
        ("mesh.data.x", "names no setting or group"),
    ],
)
def test_only_settings_and_groups_may_differ(cfg, name, message):
    known = config.setting_names(pretrain.Config)
    config.check_allowed(config.ResumeConfig(allow=("train", "model.yarn.factor")), known)
    with pytest.raises(config.ConfigError, match=message):
        config.check_allowed(config.ResumeConfig(allow=(name,)), known)


_TEXT = st.one_of(st.text(), st.text(min_size=1, max_size=9).map(lambda text: text * 999))
_VALUES = st.one_of(
    _TEXT,
    st.sampled_from(["", "nan", "-inf", "1e999", "none", "9" * 5000, "[", "~no"]),
    st.integers().map(str),
    st.floats().map(str),
    st.lists(_TEXT).map(json.dumps),
    st.lists(_TEXT).map(",".join),
)


# Experiments whose job prints its configuration and trains nothing.
_PRINTS = """
from kanana_jax import config
from kanana_jax.jobs import pipeline, pretrain, sweep

QUANTILE = ("train.router_balance=quantile",)
from kanana_jax.model import presets

def run(cfg, workdir):
    print(config.to_json(cfg))

def single():
    return pretrain.Config(name="single", question="?", model=presets.tiny())

def compared():
    arms = (sweep.Arm(name="a", edits=("optimizer.tau=3",)), sweep.Arm(name="b, c"))
    axes = (sweep.Axis("optimizer.lr", (0.1, 0.2)), sweep.Axis("model.kv_lora_rank", (8,)))
    return sweep.Sweep(base=single(), arms=arms, axes=axes)

def staged():
    stages = (pipeline.Stage("first", single()), pipeline.Stage("next", single(), "first"))
    return pipeline.Pipeline(name="staged", question="?", stages=stages)
"""
_SINGLE = config.setting_names(pretrain.Config)
_SETTINGS = {
    "single": (pretrain.Config, _SINGLE),
    "compared": (sweep.Sweep, _SINGLE | {"arms", "axes", "seeds", "pack", "base"}),
    "staged": (pipeline.Pipeline, {f"next.{name}" for name in _SINGLE} | {"stages", "next"}),
}


@pytest.fixture(scope="session")
def experiments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiments")
    for name in _SETTINGS:
        (folder / f"{name}.py").write_text(f"{_PRINTS}\nexperiment = {name}\n")
    return folder


def _printed(*arguments):
    """What the command prints in an empty folder, in which it writes nothing: stdout, stderr."""
    shown, told = io.StringIO(), io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(shown),
        contextlib.redirect_stderr(told),
    ):
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])  # the experiment's folder is put in front
        try:
            command_line.run(*arguments)
        except SystemExit as stopped:
            assert stopped.code == 2
        assert os.listdir(folder) == []
    return shown.getvalue(), told.getvalue()


def _expect_a_setting_or_one_short_line(kind, *arguments):
    shown, line = _printed(*arguments)
    if shown:
        assert line == ""
        for content in _trainings(kind, json.loads(shown)):
            assert json.loads(config.to_json(config.from_json(pretrain.Config, content))) == content
        return
    assert line.startswith("kanana_jax: ") and line.endswith("\n")
    assert len(line.splitlines()) == 1 and len(line) < 400, line


def _trainings(kind, content):
    """The settings of runs in what the command shows: of itself, its base, or its stages."""
    if kind is pipeline.Pipeline:
        return [stage["config"] for stage in content["stages"]]
    return [content["base"] if kind is sweep.Sweep else content]


@pytest.mark.parametrize("name", _SETTINGS)
@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(data=st.data(), value=_VALUES)
def test_any_text_is_a_setting_or_one_short_line(experiments, name, data, value):
    """Through the command's own function, which writes nothing; what is accepted survives JSON."""
    kind, known = _SETTINGS[name]
    path = data.draw(st.one_of(st.sampled_from(sorted(known)), _TEXT))
    _expect_a_setting_or_one_short_line(
        kind, f"--experiment={experiments / name}.py", f"--set={path}={value}"
    )


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("single", "profile.steps=1:" + "9" * 5000),
        ("single", "data.paths=" + "[" * 200_000 + "]"),
        ("compared", "arms=" + "[" * 200_000 + "]"),
        ("compared", "arms=[]"),
        ("compared", 'optimizer.lr=[{"a": 1}]'),
        ("staged", "next=3"),
        ("staged", "next"),
    ],
)
def test_text_that_broke_a_reader_is_one_short_line(experiments, name, edit):
    shown, line = _printed(f"--experiment={experiments / name}.py", f"--set={edit}")
    assert shown == "" and len(line.splitlines()) == 1 and len(line) < 400
