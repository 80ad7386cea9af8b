"""Comparisons over any setting: their axes, edits of them, what their runs share."""

import dataclasses
import shutil

import pytest

from experiments import muon_stress
from kanana_jax import config
from kanana_jax.config import ConfigError
from kanana_jax.config.ranges import SEED_MAX
from kanana_jax.jobs import pretrain, sweep
from kanana_jax.train.step_config import StepConfig

RATE, TAU, RANK = "optimizer.lr", "optimizer.tau", "model.kv_lora_rank"


def _places(made, tmp_path, *names):
    return [tuple(one.axes[name] for name in names) for one in sweep.plan(made, tmp_path)]


def test_a_seed_moves_initialisation_and_the_order_of_the_data(tmp_path):
    made = muon_stress.experiment().edited(["seeds=3", "train.seed=4", "data.seed=9"])
    runs = sweep.plan(made, tmp_path)
    seeds = {(one.config.train.seed, one.config.data.seed) for one in runs}
    assert seeds == {(4, 9), (5, 10), (6, 11)}


def test_seeds_and_rates_share_what_is_compiled(tmp_path):
    made = muon_stress.experiment().edited(["seeds=3"])
    runs = sweep.plan(made, tmp_path)

    def compiled(one):
        cfg = one.config.with_vocab(258)
        return StepConfig.of(cfg, pretrain.JOB.objective(cfg))

    assert len({compiled(one) for one in runs}) == len(made.arms)


def test_a_sweep_over_the_shape_of_the_model(cfg, tmp_path):
    made = sweep.Sweep(base=cfg, axes=(sweep.Axis(RANK, (8, 16)),), seeds=2)
    runs = sweep.plan(made, tmp_path)
    assert [one.config.model.kv_lora_rank for one in runs] == [8, 8, 16, 16]
    assert [one.directory.name for one in runs] == [
        f"test-kv-lora-rank{rank}-seed{seed}" for rank in (8, 16) for seed in (0, 1)
    ]
    assert runs[0].axes == {"arm": "test", RANK: 8, "seed": 0}
    assert runs[0].label == "test kv_lora_rank 8 seed 0"


def test_two_axes_are_crossed_and_the_first_varies_slowest(cfg, tmp_path):
    arms = (sweep.Arm(name="a"), sweep.Arm(name="b", edits=("optimizer.name=muon",)))
    axes = (sweep.Axis(TAU, (1.0, 2.0)), sweep.Axis(RATE, (0.1, 0.2)))
    made = sweep.Sweep(base=cfg, arms=arms, axes=axes)
    assert _places(made, tmp_path, TAU, RATE, "arm") == [
        (tau, lr, arm) for tau in (1.0, 2.0) for lr in (0.1, 0.2) for arm in ("a", "b")
    ]
    runs = sweep.plan(made, tmp_path)
    assert {(one.config.optimizer.tau, one.config.optimizer.lr) for one in runs} == {
        (1.0, 0.1), (1.0, 0.2), (2.0, 0.1), (2.0, 0.2)
    }  # fmt: skip
    assert runs[1].directory.name == "b-tau1-lr0.1-seed0"


def test_a_switch_and_a_word_are_axes_too(cfg, tmp_path):
    axes = (
        sweep.Axis("optimizer.embedding_decay", (False, True)),
        sweep.Axis("optimizer.norm_decay", ("all", "none")),
    )
    runs = sweep.plan(sweep.Sweep(base=cfg, axes=axes), tmp_path)
    optimizers = [one.config.optimizer for one in runs]
    assert [(one.embedding_decay, one.norm_decay) for one in optimizers] == [
        (False, "all"), (False, "none"), (True, "all"), (True, "none")
    ]  # fmt: skip
    assert runs[0].directory.name == "test-embedding-decayfalse-norm-decayall-seed0"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("optimizer.rate", r"an axis names no setting 'optimizer.rate'; nearest are .*optimizer"),
        ("optimizer", "a setting in which runs can differ"),
        ("name", "a setting in which runs can differ"),
        ("resume.restart", "a setting in which runs can differ"),
        ("train.seed", "what seeds sweeps"),
    ],
)
def test_what_is_no_axis_is_refused(cfg, path, message):
    axis = sweep.Axis(path, (1, 2))
    with pytest.raises(ConfigError, match=message):
        sweep.Sweep(base=cfg, axes=(axis,))
    with pytest.raises(ConfigError, match=message):
        sweep.Sweep(base=cfg, arms=(sweep.Arm(name="a", axes=(axis,)),))


def test_values_that_do_not_fit_are_refused_before_anything_runs(cfg, tmp_path):
    with pytest.raises(ConfigError, match=r"optimizer.tau must be of type float, got 'high'"):
        sweep.plan(sweep.Sweep(base=cfg, axes=(sweep.Axis(TAU, ("high",)),)), tmp_path)


@pytest.fixture
def compared(cfg):
    arms = (
        sweep.Arm(name="A", edits=("optimizer.tau=3",)),
        sweep.Arm(name="B, the other", edits=(" optimizer.tau = 4",)),
        sweep.Arm(name="C", axes=(sweep.Axis(RATE, (0.001,)),), edits=("optimizer.tau=5",)),
    )
    return sweep.Sweep(base=cfg, arms=arms, axes=(sweep.Axis(RATE, (0.02, 0.06)),))


def test_an_arm_runs_at_its_own_values_too(compared, tmp_path):
    found = _places(compared, tmp_path, "arm", RATE)
    everywhere = [(arm.name, lr) for lr in (0.02, 0.06) for arm in compared.arms]
    assert found == [*everywhere, ("C", 0.001)]


def test_values_named_by_the_user_are_those_of_all_arms(compared, tmp_path):
    found = _places(compared.edited(["optimizer.lr=0.5,0.25"]), tmp_path, "arm", RATE)
    assert found == [(arm.name, lr) for lr in (0.5, 0.25) for arm in compared.arms]
    as_json = compared.edited(["optimizer.lr=[0.5, 0.25]"])
    assert _places(as_json, tmp_path, "arm", RATE) == found


def test_values_of_an_axis_that_one_arm_alone_had_are_those_of_all(cfg, tmp_path):
    arms = (sweep.Arm(name="a"), sweep.Arm(name="b", axes=(sweep.Axis(RATE, (0.001,)),)))
    edited = sweep.Sweep(base=cfg, arms=arms).edited(["optimizer.lr=0.5"])
    assert _places(edited, tmp_path, "arm", RATE) == [("a", 0.5), ("b", 0.5)]


def test_values_are_read_by_the_type_of_the_setting(cfg):
    made = sweep.Sweep(base=cfg, axes=(sweep.Axis(RANK, (8,)), sweep.Axis(TAU, (1.0,))))
    edited = made.edited([f"{RANK}=16,32", f"{TAU}=3"])
    assert edited.axes == (sweep.Axis(RANK, (16, 32)), sweep.Axis(TAU, (3.0,)))
    assert type(edited.axes[1].values[0]) is float


def test_arms_are_chosen_by_name_in_their_own_order(compared):
    edited = compared.edited(['arms=["C","B, the other"]'])
    assert [arm.name for arm in edited.arms] == ["B, the other", "C"]
    assert edited.arms == compared.arms[1:]
    assert [arm.name for arm in compared.edited(["arms=C, A"]).arms] == ["A", "C"]


def test_seeds_are_a_number_of_the_comparison(compared, tmp_path):
    edited = compared.edited(["seeds=4", "train.seed=2"])
    assert edited.seeds == 4
    seeds = {one.config.train.seed for one in sweep.plan(edited, tmp_path)}
    assert seeds == {2, 3, 4, 5}


def test_other_settings_are_those_of_the_base(compared):
    edited = compared.edited(["train.num_steps=20", "name=other"])
    assert edited.base == compared.base.edited(["train.num_steps=20", "name=other"])
    assert (edited.name, edited.arms, edited.axes) == ("other", compared.arms, compared.axes)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (["optimizer.lr=0.1,0.1"], None),  # refused by the plan, as those of the function are
        (["optimizer.lr=fast"], r"optimizer.lr must be of type float; got 'fast'"),
        (["optimizer.lr=-1"], "optimizer.lr must lie in"),
        (["optimizer.lr=[]"], "give one value or more, got none"),
        (["optimizer.lr="], "empty value"),
        (["optimizer.lr=[0.1"], "must be a list"),
        (["optimizer.lr=0.1", " optimizer.lr = 0.2"], "optimizer.lr is given twice"),
        (["seeds=2", "seeds=3"], "seeds is given twice"),
        (["seeds=0"], "seeds must lie in"),
        (["seeds=two"], "seeds must be of type int"),
        (["arms=D"], r"arms names no arm 'D'; there are 'A', 'B, the other', 'C', as in"),
        (["arms=B, the other"], r"arms names no arm 'B'"),
        (['arms=["A"', "seeds=2"], "must be a list"),
        (
            ["optimizer.tau=4"],
            r"optimizer.tau is what the arms compare: got 4.0, and arm 'A' has 3",
        ),
        (["optimizer.rate=4"], "unknown setting 'optimizer.rate'"),
        (["axes=4"], "unknown setting 'axes'"),
        (["base=4"], "unknown setting 'base'"),
        ([f"train.seed={SEED_MAX}", "seeds=2"], "train.seed must be at most"),
    ],
    ids=str,
)
def test_edits_that_would_be_overridden_or_do_not_fit_are_refused(
    compared, edits, message, tmp_path
):
    if message is None:
        with pytest.raises(ConfigError, match="must differ from each other"):
            sweep.plan(compared.edited(edits), tmp_path)
        return
    with pytest.raises(ConfigError, match=message) as refused:
        compared.edited(edits)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("edit", ["optimizer.tau=3", " optimizer.tau =3", "optimizer.b1=0.5"])
def test_an_edit_with_which_every_arm_agrees_is_taken(compared, edit):
    alone = dataclasses.replace(compared, arms=compared.arms[:1])
    assert alone.edited([edit]).base == compared.base.edited([edit])


def test_a_sweep_is_described_by_its_base(compared):
    assert (compared.name, compared.question) == ("test", "?")
    assert isinstance(compared.base, config.TrainingConfig)


@pytest.mark.long
def test_runs_of_several_folders_become_one_comparison(cfg, tmp_path, capsys):
    """As docs/hosts.md says: of other arms and of other seeds, copied beside each other."""
    cfg = cfg.edited(["mesh.data=-1", "train.num_steps=2", "train.checkpoint_interval_steps=2"])
    whole = sweep.Sweep(base=cfg, arms=(sweep.Arm(name="a"), sweep.Arm(name="b")), seeds=2)
    run, runs = sweep.of(pretrain.JOB), tmp_path / "one" / "runs"
    run(whole.edited(["arms=a", "seeds=1"]), tmp_path / "one")
    run(whole.edited(["arms=b"]), tmp_path / "two")
    run(whole.edited(["arms=a", "seeds=1", "train.seed=1"]), tmp_path / "three")
    for folder in ("two", "three"):
        shutil.copytree(tmp_path / folder / "runs", runs, dirs_exist_ok=True)
    made = {path: path.read_bytes() for path in runs.glob("*/metrics.jsonl")}
    assert {path.parent.name for path in made} == {"a-seed0", "a-seed1", "b-seed0", "b-seed1"}
    capsys.readouterr()
    run(whole.edited(["resume.allow=arms,seeds"]), tmp_path / "one")
    assert {path: path.read_bytes() for path in runs.glob("*/metrics.jsonl")} == made
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    of_two_seeds = [row[0] for row in rows if row[:1] in (["a"], ["b"]) and "+-" in row]
    assert of_two_seeds == ["a", "b"]
