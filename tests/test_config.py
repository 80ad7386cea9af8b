"""Typed edits of a configuration."""

import contextlib
import dataclasses
import io
import json
import os
import tempfile
import types

import hypothesis
import pytest
from hypothesis import strategies as st

from kanana_jax import config, main
from kanana_jax.config import fields


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
    arms = (config.Arm(name="a", edits=()),)
    return config.Experiment(name="test", question="?", model=model, arms=arms)


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
        ("train.num_steps=0", r"must lie in \[1, 2147483647\] .*got 0"),
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
        ("resume.allow=train.num_step", "nearest are train.num_steps"),
        ("resume.allow=train.", "names no setting or group 'train.'"),
        ("train.accumulation_steps=3", "must divide data.batch_size = 8, got 3"),
        ("data.seq_len=2147483647", "batch_size x seq_len must be at most 2147483647"),
        ("train.seed=4294967296", "JAX takes 32 bits"),
        ("optimizer.schedule.decay_steps=2000", "needs warmup_steps"),
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


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (["train.seed=4294967295", "seeds=2"], "the last seed of JAX; got 4294967296"),
        (["model.num_heads=1048576", "model.v_head_dim=4096"], "num_heads x size of a head"),
        (["data.batch_size=65536", "data.seq_len=32767"], "x num_experts_per_token must be at"),
        (["data.paths=a.txt", "data.paths=b.txt"], "given twice; give it once, as data.paths=a,b"),
        (["data.paths=a.txt,b.txt", "data.weights=1"], "one weight per path"),
        (["model.num_dense_layers=1", "model.num_experts=0"], "num_experts must be positive"),
    ],
)
def test_edits_that_clash_are_one_clear_line(exp, edits, message):
    with pytest.raises(config.ConfigError, match=message) as caught:
        config.edit(exp, edits)
    assert "\n" not in str(caught.value)


def test_of_two_values_for_one_number_the_later_holds(exp):
    assert config.edit(exp, ["train.num_steps=3", "train.num_steps=4"]).train.num_steps == 4


_TEXT = st.one_of(st.text(), st.text(min_size=1, max_size=9).map(lambda text: text * 999))
_VALUES = st.one_of(
    _TEXT,
    st.sampled_from(["", "nan", "-inf", "1e999", "none", "9" * 5000, "[", "~no"]),
    st.integers().map(str),
    st.floats().map(str),
    st.lists(_TEXT).map(json.dumps),
    st.lists(_TEXT).map(",".join),
)


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(
    st.one_of(st.sampled_from(sorted(fields.names(config.Experiment))), _TEXT), _VALUES
)
def test_any_text_is_a_setting_or_one_short_line(path, value):
    """Through the command's own function, which writes nothing; what is accepted survives JSON."""
    shown, accepted = io.StringIO(), []
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stderr(shown),
    ):
        patch.chdir(folder)
        patch.setattr(main, "_EXPERIMENT", types.SimpleNamespace(value="muon_stress"))
        patch.setattr(main, "_SET", types.SimpleNamespace(value=[f"{path}={value}"]))
        patch.setattr(main, "_WORKDIR", types.SimpleNamespace(value=None))
        patch.setattr(main.train, "join", lambda environ: None)
        patch.setattr(main.train, "run", lambda exp, workdir: accepted.append(exp))
        try:
            main.main(["main"])
        except SystemExit as stopped:
            assert stopped.code == 2
        assert os.listdir(folder) == []
    if accepted:
        assert json.loads(config.to_json(accepted[0])).keys() == vars(accepted[0]).keys()
        return
    line = shown.getvalue()
    assert line.startswith("kanana_jax: ") and line.endswith("\n")
    assert len(line.splitlines()) == 1 and len(line) < 400, line
