"""The command line: what a user types, and what it says when that cannot work."""

import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import command_line
import jax
import pytest
import tiny_jobs

from kanana_jax import config, main, parallel
from kanana_jax.config import listing, ranges
from kanana_jax.jobs import (
    calibration,
    distillation,
    drawn_images,
    online_preference,
    pipeline,
    preference,
    pretrain,
    rejection,
    reward,
    rl,
    runs,
    sft,
    sound_chats,
    spoken_load,
    sweep,
)
from kanana_jax.model import presets
from kanana_jax.train import step_functions
from kanana_jax.workdir import Run

ROOT = Path(__file__).parents[1]


def _command(*arguments, timeout_s=300, cwd=ROOT, environ=None):
    return subprocess.run(
        [sys.executable, "-m", "kanana_jax.main", *arguments],
        cwd=cwd,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | (environ or {}),
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--experiment=nope",), "must be one of .*muon_stress"),
        ((), "must be one of"),
        (("--experiment=muon_stress", "extra"), "unexpected arguments"),
        (("--experiment=muon_stress", "--set=a.b=1"), "unknown setting 'a.b'"),
        (("--experiment=muon_stress", "--set=train.num_steps=x"), "must be of type int"),
        (("--experiment=muon_stress", "--set=train.num_steps=20"), "needs warmup_steps"),
        (("--experiment=muon_stress", "--set=optimizer.name=adamw"), "what the arms compare"),
        (("--experiment=muon_stress", "--set=data.batch_size=7", "--set=mesh.data=2"), "mesh"),
        (("--experiment=muon_stress", "--set=data.paths=/no/such.txt"), "does not exist"),
    ],
)
def test_a_bad_command_is_one_line_and_writes_nothing(
    arguments, message, tmp_path, monkeypatch, capsys
):
    """In one process, through the same function that the command runs."""
    workdir = tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        command_line.run(f"--workdir={workdir}", *arguments)
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert re.search(message, shown), shown
    assert shown.startswith("kanana_jax: ")
    assert shown.count("\n") == 1
    assert not workdir.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"too short", b"\xff\xfe\x00bad"])
def test_a_corpus_that_cannot_be_used_is_refused(content, tmp_path, capsys):
    path, workdir = tmp_path / "text.txt", tmp_path / "run"
    path.write_bytes(content)
    edits = f"--set=data.paths={path}", f"--set=data.cache_dir={tmp_path / 'cache'}"
    with pytest.raises(SystemExit, match="2"):
        command_line.run("--experiment=muon_stress", *edits, f"--workdir={workdir}")
    shown = capsys.readouterr().err
    assert shown.startswith("kanana_jax: ") and shown.count("\n") == 1
    assert not workdir.exists()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A user's folder, in which the program is started: its modules come first, as with -m."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = dict(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - set(before):
        del sys.modules[name]
    sys.modules.update(before)


@pytest.mark.parametrize("name", ["experiments/__init__.py", "experiments.py"])
def test_a_package_of_the_users_called_experiments_hides_none_of_ours(project, name):
    path = project / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("x = 1\n")
    for module in [one for one in sys.modules if one.partition(".")[0] == "experiments"]:
        del sys.modules[module]
    theirs = importlib.import_module("experiments")
    assert theirs.x == 1
    for ours in main.experiment_names():
        assert main.load_experiment(ours).experiment().name == ours
    assert importlib.import_module("experiments") is theirs


_MINE = """
import dataclasses
from experiments import sft_small
from beside import NAME

run = sft_small.run

def experiment():
    return dataclasses.replace(sft_small.experiment(), name=NAME)
"""


@pytest.mark.parametrize("name", ["mine.tuned", "mine/tuned.py", "{}/mine/tuned.py"])
def test_an_experiment_of_the_users_is_named_by_its_file_or_module(project, name):
    (project / "mine").mkdir()
    (project / "mine" / "__init__.py").write_text("")
    (project / "mine" / "tuned.py").write_text(_MINE)
    (project / "mine" / "beside.py").write_text("NAME = 'mine'\n")
    (project / "beside.py").write_text("NAME = 'mine'\n")
    module = main.load_experiment(name.format(project))
    assert module.experiment().name == "mine" and module.run is sft.run


_TINY = """
import tiny_jobs
from kanana_jax.jobs import pretrain

run = pretrain.run

def experiment():
    return tiny_jobs.pretraining("words.txt", name="mine")
"""


@pytest.mark.long
def test_an_experiment_outside_the_repository_runs_by_its_module_and_by_its_file(tmp_path):
    """The second finds the run of the first finished, and shows the same report."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "tiny.py").write_text(_TINY)
    tiny_jobs.write_text(tmp_path / "words.txt")
    environ = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    edits = ("train.num_steps=2", "optimizer.name=adamw")
    flags = [f"--set={edit}" for edit in edits]
    answers = [
        _command(f"--experiment={name}", *flags, cwd=tmp_path, environ=environ)
        for name in ("mine.tiny", "mine/tiny.py")
    ]
    for answer in answers:
        assert answer.returncode == 0, answer.stderr
    assert "bits per byte" in answers[0].stdout == answers[1].stdout
    run = tmp_path / "runs" / "mine" / "run"
    assert json.loads((run / "result.json").read_text())["steps"] == 2
    assert json.loads((run / "run.json").read_text())["config"]["optimizer"]["name"] == "adamw"


_RUN = "def run(cfg, workdir): raise AssertionError\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.py", None, "must be one of .*muon_stress"),
        ("absent.module", None, "must be one of .*muon_stress"),
        (".relative", None, "is no module"),
        ("empty.py", "", r"must have a function experiment\(\)"),
        ("no_run.py", "def experiment(): return 3", r"must have a function run\(\)"),
        ("no_call.py", f"{_RUN}experiment = 3", r"must have a function experiment\(\)"),
        (
            "wrong.py",
            f"{_RUN}def experiment(): return 3",
            "a job's configuration, got int",
        ),
        ("__init__", None, "must be one of"),
    ],
)
def test_what_is_no_experiment_is_refused(project, capsys, name, content, message):
    if content is not None:
        (project / name).write_text(content)
    for more in ((), ("--print_config",)):
        with pytest.raises(SystemExit, match="2"):
            command_line.run(f"--experiment={name}", *more)
        shown = capsys.readouterr().err
        assert re.search(message, shown) and shown.count("\n") == 1, shown
    with pytest.raises(config.ConfigError, match=message):
        main.help_text(name)


def test_an_error_in_a_users_module_is_shown_as_it_is(project):
    (project / "mine").mkdir()
    (project / "mine" / "broken.py").write_text("import not_installed_at_all\n")
    with pytest.raises(ModuleNotFoundError, match="not_installed_at_all"):
        main.load_experiment("mine.broken")


def _rows(text):
    """The lines of a listing by the path that each begins with."""
    return {line.split()[0]: line for line in text.splitlines() if line.strip()}


def _values(cfg):
    return {one.path: one for one in listing.settings(cfg)}


@pytest.mark.long
def test_help_lists_every_experiment_with_its_question_and_every_setting_with_its_type():
    answer = _command("--help")
    assert answer.returncode == 0, answer.stderr
    rows = _rows(answer.stdout)
    for name in main.experiment_names():
        question = main.load_experiment(name).experiment().question
        assert question and rows[name].split(maxsplit=1)[1] == question
    kinds = {path: kind for path, kind in _kinds(pretrain.Config) if path != "model.yarn"}
    assert len(kinds) > 80
    for path, kind in kinds.items():
        for word in _words(kind):
            assert word in rows[path].split(maxsplit=1)[1], path
    assert "YarnConfig or none" in rows["model.yarn"]


def _kinds(owner, prefix=""):
    """The paths of all settings below a dataclass, and their annotations."""
    for name, kind in typing.get_type_hints(owner, include_extras=True).items():
        if dataclasses.is_dataclass(kind):
            yield from _kinds(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", kind


def _words(kind):
    """What a line about a setting must say: the name of its type, its range, its words."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        limits = [f"in {one}" for one in args[1:] if isinstance(one, ranges.Range)]
        return [*_words(args[0]), *limits]
    if origin is typing.Literal:
        return [", ".join(args)]
    if args:
        return [word for one in args if one is not Ellipsis for word in _words(one)]
    return [{str: "text", bool: "true or false", type(None): "none"}.get(kind) or kind.__name__]


@pytest.mark.parametrize("arguments", [("--experiment=sft_small",), ("--experiment", "sft_small")])
def test_help_of_an_experiment_lists_its_settings_with_their_values(arguments, capsys):
    with pytest.raises(SystemExit, match="0"):
        main._parse(["main", *arguments, "--help"])
    shown = capsys.readouterr().out
    cfg = main.load_experiment("sft_small").experiment()
    assert shown.startswith(f"sft_small: {cfg.question}\n")
    rows = _rows(shown)
    assert _values(cfg).keys() <= rows.keys()
    for path, one in _values(cfg).items():
        assert rows[path].endswith(f"{one.holds.split()[-1]}  {one.value!r}") or (
            one.holds in rows[path] and rows[path].endswith(f"  {one.value!r}")
        )
    assert "optimizer.lr" in rows and rows["optimizer.lr"].endswith("0.002")


def test_help_of_a_comparison_names_its_arms_and_axes():
    shown = main.help_text("muon_stress")
    assert "arm 'MuonClip': optimizer.name=muonclip, optimizer.polar=polar_express" in shown
    assert "optimizer.lr = 0.004, 0.015, 0.06" in shown and "seeds = 1" in shown


def test_help_of_what_is_no_experiment_is_one_line():
    answer = _command("--experiment=nope", "--help")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith("kanana_jax: --experiment must be one of")
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize("name", main.experiment_names())
def test_the_printed_configuration_is_the_one_that_would_run(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = main.load_experiment(name).experiment()
    edits = ["train.eval_interval_steps=99", "execution.scan_layers=false"]
    if isinstance(made, spoken_load.Config):
        edits = ["seconds=9.5", "listeners=1,2"]
    elif isinstance(made, pipeline.Pipeline):
        edits = [f"base.{edit}" for edit in edits]
    elif not name.startswith("vision_"):  # which draws what it reads
        # As many as before, for arms may weigh them.
        before = getattr(made, "base", made).data.paths
        edits.append(f"data.paths={','.join(['a.txt', 'b c.txt', *before[2:]])}")
    command_line.run(f"--experiment={name}", *(f"--set={edit}" for edit in edits), "--print_config")
    shown = json.loads(capsys.readouterr().out)
    cfg = made.edited(edits)
    kind = type(cfg)
    if kind is pipeline.Pipeline:
        for stage, one in zip(cfg.stages, shown["stages"], strict=True):
            found = one["config"].get("base", one["config"])  # of a comparison, or alone
            assert config.from_json(type(stage.base), found) == stage.base
    elif kind is sweep.Sweep:
        assert config.from_json(type(cfg.base), shown["base"]) == cfg.base
        assert [config.from_json(sweep.Arm, arm) for arm in shown["arms"]] == [*cfg.arms]
    else:
        assert config.from_json(kind, shown) == cfg
    assert list(tmp_path.iterdir()) == []


_JOBS = {
    pretrain.Config: pretrain.JOB,
    sft.Config: sft.JOB,
    preference.Config: preference.JOB,
    reward.Config: reward.JOB,
    rejection.Config: rejection.JOB,
    online_preference.Config: online_preference.JOB,
    calibration.Config: calibration.JOB,
    rl.Config: rl.JOB,
    distillation.Config: distillation.JOB,
    drawn_images.Config: drawn_images.JOB,
    sound_chats.Config: sound_chats.JOB,
}


_SHAPE = presets.tiny(vocab_size=258)
_TRAIN_NOTHING = {"speech_serving"}
_TRAINED = sorted({*main.experiment_names()} - _TRAIN_NOTHING)

# Steps that an experiment compiles, where it is more than one.
_NUM_STEPS = {
    "muon_stress": 4,
    "muon_stress_h100": 4,
    "router_balance": 4,
    "batch_ramp": 6,  # two arms have two batch sizes each
    "weight_average": 2,
    "lr_transfer": 12,  # four rules at three widths
    "lr_transfer_h100": 12,  # three rules at four widths
    "fp8_parity": 8,
    "fp8_parity_h100": 8,
    "agentic": 2,
    "rmsnorm": 6,
    "rmsnorm_adamw": 6,
    "polar_express_late": 3,
    "clip_granularity": 3,
    "stabilisers": 4,
    "sparsity_law": 4,
    "head_count": 3,
    "atlas": 4,  # one for each width
    "atlas_h100": 4,
    "mid_training": 2,
    "mid_training_h100": 2,
    "kanana_post": 5,  # base, mid, all on conversations, reward, both on preferences
    "kanana_post_h100": 4,  # base and mid share theirs
    "rl_logic": 5,  # base, more, and three arms with losses of their own
    "spurious_rewards": 3,  # the base, the leaky one, and all that are rewarded
    "muon_rl": 5,  # the base, and four arms
    "cascade": 7,  # the base, it and half of it measured, both taught, as long as one, scratch
    "prune_distill": 8,  # the base, it measured, five arms and a new model, from scratch
    "depth_upscaling": 7,  # the parent, it again, starts and the grown models, three from scratch
    "prune_distill_h100": 8,
    "depth_upscaling_h100": 7,
    "distill_smollm2": 5,  # the teacher measured, and four arms
    "distill_small": 6,  # the teacher, and five arms
    "rl_tracks": 4,  # the base, tracks, both in twice as many steps, and what is only measured
    "rl_routing": 8,  # the base, three corrections with and without replay, float32
    "trace_mismatch": 3,  # bases, their text, and all that are rewarded
}


_LEFT_TO_LONG = {
    *("prune_distill_h100", "depth_upscaling_h100", "lr_transfer_h100"),
    *("prune_distill", "cascade", "rl_routing", "fp8_parity", "rmsnorm", "rmsnorm_adamw"),
    *("polar_express_late", "clip_granularity", "stabilisers", "sparsity_law", "head_count"),
    *("atlas", "tune_or_scratch", "distill_smollm2", "lr_transfer", "muon_rl", "batch_ramp"),
    *("router_balance", "weight_average", "staged_pretraining", "mid_training", "curation"),
    *("rl_logic", "preference_small", "reward_small", "sft_small", "rephrase", "agentic"),
    *("speech_heard", "continue_from_hf"),
}  # fmt: skip


def _of_usual_schedule(step):
    """Steps that differ in their schedule alone differ in numbers and no arrays."""
    optimizer = dataclasses.replace(step.optimizer, schedule=config.ScheduleConfig())
    return dataclasses.replace(step, num_steps=0, optimizer=optimizer)


def _but_sizes(step):
    """What steps have in common that differ in sizes, and in what is chosen by sizes, alone."""
    usual = dataclasses.replace(
        _of_usual_schedule(step),
        model=_SHAPE,
        execution=config.ExecutionConfig(precision=step.execution.precision),
        teacher=step.teacher and _SHAPE,
        batch_size=1,
        seq_len=1,
        rates=(),
    )
    is_latent, has_experts = step.model.kv_lora_rank is not None, step.model.num_moe_layers > 0
    return usual, is_latent, has_experts, bool(step.rates)


@pytest.fixture(scope="module")
def taken():
    """Steps that an experiment has taken: those of several are traced once."""
    return set()


def _layers_and_heads(model):
    """Of the decoder, and of the encoders behind it; the most heads of any."""
    all_of_them = (model, *(one for one in (model.vision, model.audio) if one is not None))
    num_layers = sum(one.num_layers for one in all_of_them)
    return num_layers, max(one.num_heads for one in all_of_them)


def _runs(made, folder):
    if isinstance(made, pipeline.Pipeline):
        return [run for stage in made.stages for run in stage.runs(folder / stage.name)]
    return sweep.plan(made, folder) if isinstance(made, sweep.Sweep) else [Run({}, made, folder)]


def _marks(name):
    """Most that are left to the long tests take the steps of others, at other sizes."""
    if name.endswith("_h100") or name in _LEFT_TO_LONG:
        return pytest.mark.long
    return [] if name == "muon_stress" else pytest.mark.slow


@pytest.mark.parametrize("name", _TRAINED)
def test_every_experiment_compiles_as_many_steps_as_it_should(name, tmp_path):
    assert len(_steps(name, tmp_path)) == _NUM_STEPS.get(name, 1)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=_marks(name)) for name in _TRAINED],
)
def test_every_experiment_can_take_a_step(name, tmp_path, taken):
    """Traced with every arm's optimizer, without arrays."""
    steps = _steps(name, tmp_path)
    one_of_each = {_but_sizes(step): step for step in steps}.values()
    _take({step: steps[step] for step in one_of_each}, taken)


@pytest.mark.long
@pytest.mark.parametrize("name", _TRAINED)
def test_every_experiment_can_take_a_step_at_each_of_its_sizes(name, tmp_path, taken):
    _take(_steps(name, tmp_path), taken)


def _steps(name, folder):
    """What an experiment compiles, each with a configuration that does."""
    made = main.load_experiment(name).experiment()
    assert made.name == name
    found = [one._replace(config=one.config.with_vocab(258)) for one in _runs(made, folder)]
    return {
        step: one.config
        for one in found
        for step in runs.step_configs(_JOBS[type(one.config)], one)
    }


def _take(steps, taken):
    for step_config, cfg in steps.items():
        key = _of_usual_schedule(step_config), cfg.mesh
        if key in taken:
            continue
        built = step_functions.build(step_config, parallel.make_mesh(cfg.mesh, jax.devices()[:1]))
        after, record = built.trace().out_info
        assert jax.tree.structure(after) == jax.tree.structure(built.like)
        assert record["max_logits"].shape == _layers_and_heads(cfg.model)
        taken.add(key)
