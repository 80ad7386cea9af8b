"""Jobs in turn: what each starts from, what a second run repeats, what is refused."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from kanana_jax import config
from kanana_jax.jobs import pipeline, pretrain, sft, training
from kanana_jax.report import results
from kanana_jax.weights import native
from kanana_jax.workdir import Stopped

RUNS = {"base": pretrain.run, "more": pretrain.run, "chat": sft.run}


@pytest.fixture
def short(cfg) -> pretrain.Config:
    return cfg.edited(
        ["train.num_steps=2", "optimizer.name=adamw", "optimizer.lr=0.001", "mesh.data=-1"]
    )


@pytest.fixture
def staged(short, tmp_path) -> pipeline.Pipeline:
    """Text, more text, then conversations, on the model of the stage before."""

    def talk(number):
        turns = [("user", f"muon {number}?"), ("assistant", "clip")]
        return {"messages": [{"role": role, "content": content} for role, content in turns]}

    lines = [json.dumps(talk(number)) for number in range(40)]
    (tmp_path / "talks.jsonl").write_text("\n".join(lines))
    bpe = short.edited(["data.tokenizer=bpe", "data.bpe_vocab_size=270"])
    blocks = {field.name: getattr(short, field.name) for field in dataclasses.fields(short)}
    chat = sft.Config(**blocks).edited(
        [f"data.paths={tmp_path / 'talks.jsonl'}", "data.heldout_fraction=0.2"]
    )
    stages = (
        pipeline.Stage("base", bpe),
        pipeline.Stage("more", short.edited(["train.seed=1"]), init_from="base"),
        pipeline.Stage("chat", chat, init_from="more"),
    )
    return pipeline.Pipeline(name="staged", question="?", stages=stages)


def _weights(folder: Path):
    shape = native.read_description(folder).cfg
    return native.restore(folder, native.abstract(shape, jax.numpy.float32))


def _watched(first: dict, job: training.Job):
    """The job's function, which keeps the weights that training starts from by their folder."""

    def run(cfg, workdir):
        def frozen(first_weights):
            first[workdir.name] = jax.device_get(first_weights())
            return {}

        training.of(job._replace(frozen=frozen))(cfg, workdir)

    return run


def _must_not_run(cfg, workdir):
    raise AssertionError(f"{workdir} was finished")


@pytest.mark.slow
def test_each_stage_starts_from_the_weights_and_tokens_of_the_stage_it_names(staged, tmp_path):
    work, first = tmp_path / "work", {}
    jobs = {"base": pretrain.JOB, "more": pretrain.JOB, "chat": sft.JOB}
    pipeline.of({name: _watched(first, job) for name, job in jobs.items()})(staged, work)
    assert list(first) == ["base", "more", "chat"]
    for before, after in (("base", "more"), ("more", "chat")):
        of_before = _weights(work / before / pipeline.MODEL)
        jax.tree.map(np.testing.assert_array_equal, first[after], of_before)
        trained = _weights(work / after / pipeline.MODEL)
        moved = np.abs(trained.params["embed"] - of_before.params["embed"])
        assert 0 < moved.max() < 0.02  # two steps of AdamW at 0.001
        tokens = [work / name / pipeline.MODEL / "tokenizer.json" for name in (before, after)]
        assert tokens[0].read_bytes() == tokens[1].read_bytes()
    chat = results.load(work / "chat" / "run").config
    assert chat["train"]["init_from"] == str(work / "more" / pipeline.MODEL)
    assert chat["model"]["vocab_size"] == 270

    # Finished: nothing is trained or written again.
    files = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    pipeline.of(dict.fromkeys(RUNS, _must_not_run))(staged, work)
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()} == files


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("stopped_at", ["base", "more"])
def test_an_interrupted_pipeline_goes_on(short, tmp_path, stopped_at):
    """With the stage that was interrupted, whose first steps are not repeated."""
    stages = (pipeline.Stage("base", short), pipeline.Stage("more", short, init_from="base"))
    made = pipeline.Pipeline(name="staged", question="?", stages=stages)
    ran, work = [], tmp_path / "work"

    def interrupted(cfg, workdir):
        ran.append(workdir.name)
        is_first = ran.count(stopped_at) == 1 and workdir.name == stopped_at
        pretrain.run(cfg, workdir)
        if is_first:
            raise Stopped  # between its last step and its model folder

    with pytest.raises(Stopped):
        pipeline.of(dict.fromkeys(RUNS, interrupted))(made, work)
    assert not (work / stopped_at / pipeline.MODEL).exists()
    pipeline.of(dict.fromkeys(RUNS, interrupted))(made, work)
    earlier = ["base"] if stopped_at == "more" else []
    assert ran == [*earlier, stopped_at, stopped_at, *(["more"] if stopped_at == "base" else [])]
    for name in ("base", "more"):
        assert _weights(work / name / pipeline.MODEL).params["embed"].shape == (258, 32)
        lines = (work / name / "run" / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_edits_are_those_of_the_stages_they_name(staged):
    edited = staged.edited(
        ["chat.train.num_steps=7", " more.optimizer.lr = 0.5", "chat.data.paths=a.b,c"]
    )
    base, more, chat = edited.stages
    assert base == staged.stages[0]
    assert more.config == staged.stages[1].config.edited(["optimizer.lr=0.5"])
    assert (chat.config.train.num_steps, chat.config.data.paths) == (7, ("a.b", "c"))
    assert (chat.init_from, type(chat.config)) == ("more", sft.Config)
    assert staged.edited([]) == staged


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("train.num_steps=7", "begins with a stage, one of base, more, chat, as in base.train"),
        ("chats.train.num_steps=7", r"begins with a stage.*got 'chats.train.num_steps=7'"),
        ("chat", "an edit looks like path=value"),
        ("chat.train.num_step=7", "unknown setting 'train.num_step'"),
        ("chat.train.num_steps=0", "train.num_steps must lie in"),
        ("chat.init_from=base", "unknown setting 'init_from'"),
        ("name=other", "begins with a stage"),
    ],
)
def test_edits_of_no_stage_or_of_no_setting_are_refused(staged, edit, message):
    with pytest.raises(config.ConfigError, match=message) as refused:
        staged.edited([edit])
    assert "\n" not in str(refused.value)


def test_the_listing_has_the_settings_of_every_stage(staged):
    text = staged.listing()
    for stage in staged.stages:
        assert f"{stage.name}:\n{stage.config.listing()}" in text


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([("a", ""), ("a", "")], "stages must have names of their own, got 'a' twice"),
        ([("a", "b"), ("b", "")], r"stage 'a' starts from 'b'.*before it: there are none"),
        ([("a", ""), ("b", "b")], r"stage 'b' starts from 'b'.*before it: a$"),
        ([("a", ""), ("b", "c"), ("c", "")], "'b' starts from 'c', which is none of the stages"),
        ([("a/b", "")], r"stages\.name must be the name of a folder"),
        ([], "a pipeline needs a stage or more"),
    ],
)
def test_stages_that_cannot_follow_each_other_are_refused(cfg, stages, message):
    with pytest.raises(config.ConfigError, match=message):
        made = tuple(pipeline.Stage(name, cfg, init_from) for name, init_from in stages)
        pipeline.Pipeline(name="staged", question="?", stages=made)


def test_a_stage_without_a_job_is_refused_before_anything_runs(staged, tmp_path):
    run = pipeline.of({"base": _must_not_run, "more": _must_not_run})
    with pytest.raises(config.ConfigError, match=r"no job is given for chat; pipeline\.of names"):
        run(staged, tmp_path / "work")
    assert not (tmp_path / "work").exists()
