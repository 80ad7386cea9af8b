"""Jobs in turn: what each starts from, what a second run repeats, what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import tiny_jobs

from kanana_jax import checkpoint, config, surgery
from kanana_jax.jobs import initial, pipeline, pretrain, sft, sweep, training
from kanana_jax.report import results
from kanana_jax.train import optimizers
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
    fields = dataclasses.fields(config.TrainingConfig)
    blocks = {field.name: getattr(short, field.name) for field in fields}
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
    """The job's function, which also keeps the weights that training starts from, by folder."""

    def run(cfg, workdir):
        def prepared(corpus, cfg, built, start):
            first[workdir.name] = jax.device_get(start.first_weights())
            return corpus

        training.of(job._replace(prepared=prepared))(cfg, workdir)

    return run


def _must_not_run(cfg, workdir):
    raise AssertionError(f"{workdir} was finished")


@pytest.mark.long
def test_each_stage_starts_from_the_weights_and_tokens_of_the_one_it_names(
    staged, tmp_path, capsys
):
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
    # One text, with the tokenizer that `base` trained and with the one that `more` was given.
    assert len(list((work / pipeline.CACHE).glob("tokens-*.lock"))) == 2
    assert not list(work.glob("*/cache"))

    # Finished: nothing is trained again, and nothing written but the report of all.
    def files():
        return {path: path.stat().st_mtime_ns for path in work.glob("*/**/*") if path.is_file()}

    before = files()
    capsys.readouterr()
    again = pipeline.of(dict.fromkeys(RUNS, _must_not_run))
    again(staged, work)
    assert files() == before
    table = capsys.readouterr().out
    assert [line.split()[0] for line in table.splitlines()[2:5]] == ["base", "more", "chat"]
    assert (work / "stages.png").stat().st_size > 10_000

    with pytest.raises(config.ConfigError, match=r"configuration \(optimizer.lr: 0.001 -> 0.5\)"):
        again(staged.edited(["more.optimizer.lr=0.5"]), work)
    with pytest.raises(config.ConfigError, match=r"stage 'more' is finished .* remove .*more"):
        again(staged.edited(["more.optimizer.lr=0.5", "more.resume.allow=optimizer.lr"]), work)
    shutil.rmtree(work / "base")
    with pytest.raises(config.ConfigError, match=r"more was made from an earlier 'base'"):
        again(staged, work)


@pytest.mark.long
@pytest.mark.parametrize("stopped_at", ["base", "more"])
def test_an_interrupted_pipeline_goes_on(short, tmp_path, stopped_at):
    """It goes on with the interrupted stage, whose first steps are not repeated."""
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


@pytest.mark.long
def test_a_stage_without_steps_measures_what_it_merges(short, tmp_path, capsys):
    def stage(name, *edits, **places):
        return pipeline.Stage(name, sweep.Sweep(base=short.edited(edits), seeds=2), **places)

    still = "train.num_steps=0", "train.average.every_tokens=256"
    made = pipeline.Pipeline(
        name="merged",
        question="?",
        stages=(
            stage("base"),
            stage("left", init_from="base"),
            stage("right", "data.seed=5", init_from="base"),
            stage("mean", *still, init_from="base", merges=("left", "right")),
            stage("ties", *still, init_from="base", merges=("left", "right"), density=0.2),
        ),
    )
    job = sweep.of(pretrain.JOB)
    pipeline.of(dict.fromkeys(("base", "left", "right", "mean", "ties"), job))(made, tmp_path)
    for seed in range(2):
        base, left, right, mean, ties = (
            _weights(tmp_path / stage.name / "model" / f"seed{seed}") for stage in made.stages
        )
        assert np.any(left.params["embed"] != right.params["embed"])
        jax.tree.map(
            lambda x, y, z: np.testing.assert_allclose(x, (y + z) / 2, rtol=1e-5, atol=1e-7),
            mean,
            left,
            right,
        )
        moved = (np.asarray(ties.params["embed"]) != base.params["embed"]).mean()
        assert 0.1 < moved <= 0.41  # a fifth of each
    runs = [results.load(path.parent) for path in tmp_path.glob("mean/runs/*/result.json")]
    assert len(runs) == 2
    for run in runs:
        assert (run.status, run.steps) == ("ok", 0)
        assert run.value("heldout_bpb") == run.value("heldout_bpb_average") > 0
    assert "mean" in capsys.readouterr().out


@pytest.mark.long
def test_a_stage_starts_from_what_surgery_makes_of_each_seed(short, tmp_path, capsys):
    """Zeros are interposed, which changes no logit, and half of the experts are cut."""

    def stage(name, *edits, **places):
        return pipeline.Stage(name, sweep.Sweep(base=short.edited(edits), seeds=2), **places)

    still = "train.num_steps=0"
    zeros = config.SurgeryConfig(grow=("interpose_zero=1",))
    cut = config.SurgeryConfig(
        prune=("num_experts=2",), num_samples=4, length=16, expert_score="frequency"
    )
    stages = (
        stage("base"),
        stage("deep", still, init_from="base", surgery=zeros),
        stage("few", still, init_from="deep", surgery=cut),
    )
    made = pipeline.Pipeline(name="surgery", question="?", stages=stages)
    job = sweep.of(pretrain.JOB)
    pipeline.of(dict.fromkeys(("base", "deep", "few"), job))(made, tmp_path)
    shapes = [native.read_description(tmp_path / one.name / "model/seed1").cfg for one in stages]
    assert [(one.num_layers, one.num_experts) for one in shapes] == [(1, 4), (2, 4), (2, 2)]
    losses = [
        [results.load(run.directory).value("heldout_bpb") for run in one.runs(tmp_path / one.name)]
        for one in stages
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
    assert losses[0][0] != losses[0][1]
    assert min(abs(few - deep) for few, deep in zip(losses[2], losses[1], strict=True)) > 1e-5
    assert "num_experts=2 keeps" in capsys.readouterr().err
    deep = tmp_path / "deep" / pipeline.MODEL / "seed1"
    surgery.make(cut, deep, tmp_path / "again", text=short.data, report=lambda line: None)
    changed = tmp_path / "few" / pipeline.CHANGED / "seed1"
    jax.tree.map(np.testing.assert_array_equal, _weights(changed), _weights(tmp_path / "again"))


@pytest.mark.parametrize(
    "places",
    [
        {},
        {"init_from": "base", "merges": ("left", "right")},
        {"init_from": "base", "keeps_optimizer": True},
    ],
)
def test_surgery_is_done_to_one_model_and_to_no_optimizer(cfg, places):
    chosen = config.SurgeryConfig(grow=("stack=1",))
    with pytest.raises(config.ConfigError, match="surgery, which is done to the model of one"):
        pipeline.Stage("deep", cfg, surgery=chosen, **places)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "must have grow or prune, one of the two"),
        ({"grow": ("stack=1",), "prune": ("num_heads=2",)}, "must have grow or prune"),
        ({"grow": ("stack",)}, r"surgery.grow\[0\] must be a name, = and a number"),
        ({"prune": ("num_heads=2",), "noise": 0.1}, "surgery.noise is of what grows"),
    ],
)
def test_surgery_that_says_nothing_or_too_much_is_refused(fields, message):
    with pytest.raises(config.ConfigError, match=message):
        config.SurgeryConfig(**fields)


def test_surgery_of_an_unknown_name_is_refused_before_anything_runs(short, tmp_path):
    chosen = config.SurgeryConfig(prune=("depth=2",))
    stages = (
        pipeline.Stage("base", short),
        pipeline.Stage("more", short, init_from="base", surgery=chosen),
    )
    made = pipeline.Pipeline(name="surgery", question="?", stages=stages)
    with pytest.raises(config.ConfigError, match=r"prune takes num_layers, .* got depth"):
        pipeline.of(dict.fromkeys(RUNS, _must_not_run))(made, tmp_path / "work")
    assert not (tmp_path / "work").exists()


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
        ("chat.train.eval_batches=0", "train.eval_batches must lie in"),
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


def _steps_of_optimizer(run: Path, cfg: pretrain.Config) -> tuple[int, int]:
    """What the optimizer that a run ended with counts: steps of AdamW, and of its schedule."""
    built = tiny_jobs.build(cfg.edited(["mesh.data=1"]))
    found = initial.optimizer_state(run, built.steps.like)
    leaves = jax.tree.leaves(found, is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState))
    (adam,) = (one for one in leaves if isinstance(one, optax.ScaleByAdamState))
    return int(adam.count), int(optimizers.steps_taken(found))


@pytest.mark.long
def test_seeds_of_a_comparison_go_on_from_their_own_models_and_optimizers(short, tmp_path, capsys):
    arms = tuple(sweep.Arm(name=name, edits=(f"data.heldout_fraction={x}",)) for name, x in
                 (("much", 0.1), ("more", 0.2)))  # fmt: skip
    stages = (
        pipeline.Stage("base", sweep.Sweep(base=short, seeds=2)),
        pipeline.Stage(
            "mid", sweep.Sweep(base=short, arms=arms, seeds=2), init_from="base",
            keeps_optimizer=True,
        ),
    )  # fmt: skip
    made = pipeline.Pipeline(name="staged", question="?", stages=stages)
    work, first = tmp_path / "work", {}

    def source(*args):
        return Watching(pretrain.JOB.source(*args), first)

    watched = pretrain.JOB._replace(source=source)
    pipeline.of({"base": sweep.of(pretrain.JOB), "mid": sweep.of(watched)})(made, work)
    models = [work / "base" / pipeline.MODEL / f"seed{seed}" for seed in (0, 1)]
    embeds = [_weights(model).params["embed"] for model in models]
    assert np.abs(embeds[0] - embeds[1]).max() > 0
    # Two arms for each seed: each began with the weights of its seed.
    for number, embed in enumerate(first["embeds"]):
        np.testing.assert_array_equal(embed, embeds[number // 2])
    runs = [results.load(path) for path in sorted((work / "mid" / "runs").iterdir())]
    assert {run.config["train"]["init_from"] for run in runs} == set(map(str, models))
    assert {Path(run.config["train"]["optimizer_from"]).name for run in runs} == {
        "test-seed0", "test-seed1"
    }  # fmt: skip
    assert _steps_of_optimizer(work / "base" / "runs" / "test-seed1", short) == (2, 0)
    assert _steps_of_optimizer(work / "mid" / "runs" / "more-seed1", short) == (4, 0)
    table = capsys.readouterr().out
    assert "mid: much" in table and "mid: more" in table


class Watching:
    """A source that keeps the embedding of the weights given with the request for batch 0."""

    def __init__(self, source, seen):
        self._source, self._seen, self.fingerprint = source, seen, source.fingerprint

    def batch(self, number, weights):
        if number == 0:
            self._seen.setdefault("embeds", []).append(jax.device_get(weights.params["embed"]))
        return self._source.batch(number, weights)


@pytest.mark.parametrize(
    ("base", "stage", "message"),
    [
        ({"seeds": 1}, {"seeds": 2}, r"'mid' has seeds that 'base', .* has not: 1;"),
        ({"arms": ("a", "b")}, {}, r"'mid' starts from 'base', a comparison, which has no single"),
    ],
)
def test_a_comparison_starts_from_as_many_seeds_as_it_has(cfg, base, stage, message):
    def compared(seeds=1, arms=()):
        made = tuple(sweep.Arm(name=name, edits=("optimizer.tau=3",)) for name in arms)
        return sweep.Sweep(base=cfg, arms=made, seeds=seeds)

    with pytest.raises(config.ConfigError, match=message):
        pipeline.Pipeline(
            name="staged",
            question="?",
            stages=(
                pipeline.Stage("base", compared(**base)),
                pipeline.Stage("mid", compared(**stage), init_from="base"),
            ),
        )


def test_an_optimizer_is_kept_of_a_stage_that_there_is(cfg):
    with pytest.raises(config.ConfigError, match="keeps the optimizer of the stage that"):
        pipeline.Stage("mid", cfg, keeps_optimizer=True)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda run: None, "expected the folder of a training run"),
        (lambda run: run.mkdir(), "expected the folder of a training run"),
    ],
)
def test_an_optimizer_of_no_run_is_refused(cfg, tmp_path, prepare, message):
    prepare(tmp_path / "run")
    train = dataclasses.replace(cfg.train, optimizer_from=str(tmp_path / "run"))
    with pytest.raises(checkpoint.CheckpointError, match=message):
        initial.check_optimizer(train)


def test_a_stage_can_use_the_model_of_another_one(staged, tmp_path):
    base, more, chat = staged.stages
    uses = (("data.cache_dir", "base"),)  # any setting that names a folder
    given = pipeline.Pipeline(
        name="staged", question="?", stages=(base, dataclasses.replace(more, uses=uses), chat)
    )
    started = pipeline._started(given.stages[1], given.stages, tmp_path)
    assert started.data.cache_dir == str(tmp_path / "base" / pipeline.MODEL)
    with pytest.raises(config.ConfigError, match="none of the stages before it"):
        dataclasses.replace(given, stages=given.stages[1:])


def test_a_stage_keeps_a_cache_of_its_own(short, tmp_path):
    own = pipeline.Stage("base", short.edited(["data.cache_dir=mine"]))
    assert pipeline._started(own, (own,), tmp_path).data.cache_dir == "mine"
    shared = pipeline.Stage("base", short)
    started = pipeline._started(shared, (shared,), tmp_path)
    assert started.data.cache_dir == str(tmp_path / pipeline.CACHE)
    with pytest.raises(config.ConfigError, match="no stage can be called 'cache'"):
        pipeline.Pipeline(name="x", question="?", stages=(pipeline.Stage("cache", short),))


def test_seeds_of_a_pipeline_are_those_of_all_its_comparisons(staged):
    base, _, chat = staged.stages
    swept = pipeline.Stage("base", sweep.Sweep(base=base.config))
    made = pipeline.Pipeline(
        name="staged", question="?", stages=(swept, dataclasses.replace(chat, init_from="base"))
    )
    first, second = made.edited(["seeds=3"]).stages
    assert first.config.seeds == 3
    assert second == made.stages[1]
