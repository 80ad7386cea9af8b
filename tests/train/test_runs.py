"""Which runs an experiment has, and that none is taken for another."""

import dataclasses
import json
import re
import unicodedata

import hypothesis
import hypothesis.strategies as st
import pytest

from kanana_jax import config
from kanana_jax.report import progress
from kanana_jax.train import runs
from kanana_jax.workdir import run_record


def _arms(*names, edits=()):
    return tuple(config.Arm(name=name, edits=edits) for name in names)


def _folders(exp, tmp_path):
    return [one.directory.name for one in runs.plan(exp, tmp_path)]


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("Muon, Polar Express", "muon-polar-express"),
        ("lr_decay (0.1)", "lr-decay-0-1"),
        ("\ub274\ud134", "\ub274\ud134"),
        (unicodedata.normalize("NFD", "\ub274\ud134 2"), "\ub274\ud134-2"),
    ],
)
def test_a_folder_is_named_readably_in_any_script(exp, name, folder, tmp_path):
    named = dataclasses.replace(exp, arms=_arms(name), lrs=(0.01,))
    assert _folders(named, tmp_path) == [f"{folder}-lr0.01-seed0"]


@pytest.mark.parametrize(
    "names",
    [
        ("Muon (decay 0)", "Muon decay 0+"),
        ("Muon", "muon"),
        ("stra\u00dfe", "STRASSE"),
        ("\u2460", "1"),
        ("+", "++"),
        ("a" * 300, "a" * 301),
    ],
)
def test_names_that_a_file_system_could_confuse_get_a_hash(exp, names, tmp_path):
    found = _folders(dataclasses.replace(exp, arms=_arms(*names), lrs=(0.01,)), tmp_path)
    other_way = _folders(dataclasses.replace(exp, arms=_arms(*names[::-1]), lrs=(0.01,)), tmp_path)
    assert len({name.casefold() for name in found}) == 2
    assert found == other_way[::-1]
    assert max(len(name.encode()) for name in found) < 200


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("Muon", "Muon"), "names of arms must differ"),
        (("Muon", " Muon "), "names of arms must differ"),
        (("\u00e9", "e\u0301"), "names of arms must differ"),
        (("",), "must have characters"),
        ((" ",), "must have characters"),
        (("a\nb",), "must have characters"),
        (("a\u200bb",), "must have characters"),
    ],
)
def test_names_that_look_alike_are_refused(exp, names, message, tmp_path):
    with pytest.raises(config.ConfigError, match=message):
        runs.plan(dataclasses.replace(exp, arms=_arms(*names)), tmp_path)


@hypothesis.given(
    names=st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=6),
    lrs=st.lists(st.floats(1e-9, 10), min_size=1, max_size=4),
    seeds=st.integers(1, 3),
)
@hypothesis.settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_every_run_has_a_folder_of_its_own_or_the_plan_is_refused(exp, names, lrs, seeds, tmp_path):
    try:
        swept = dataclasses.replace(exp, arms=_arms(*names), lrs=tuple(lrs), seeds=seeds)
        planned = runs.plan(swept, tmp_path)
    except config.ConfigError:
        return
    folders = {unicodedata.normalize("NFKC", one.directory.name).casefold(): one for one in planned}
    assert len(folders) == len(planned) == len(set(names)) * len(set(lrs)) * seeds
    assert all(one.directory.parent == tmp_path / "runs" for one in planned)


@hypothesis.given(st.floats(1e-300, 1e300))
def test_a_rate_is_shown_exactly(lr):
    assert float(progress.rate(lr)) == lr


@pytest.mark.parametrize(("lr", "shown"), [(0.02, "0.02"), (3.0, "3"), (1e-5, "1e-05")])
def test_a_short_rate_is_shown_short(lr, shown):
    assert progress.rate(lr) == shown


def test_rates_and_seeds_without_arms_are_a_sweep(exp, tmp_path):
    swept = dataclasses.replace(exp, lrs=(0.01, 0.02), seeds=2)
    planned = runs.plan(swept, tmp_path)
    found = [(one.arm, one.exp.optimizer.lr, one.exp.train.seed) for one in planned]
    assert found == [("test", lr, seed) for lr in (0.01, 0.02) for seed in (0, 1)]
    assert [one.directory.name for one in runs.plan(exp, tmp_path)] == ["run"]


def test_an_arm_may_have_rates_of_its_own(exp, tmp_path):
    arms = (*_arms("a"), config.Arm(name="b", edits=(), lrs=(0.5,)))
    planned = runs.plan(dataclasses.replace(exp, arms=arms, lrs=(0.1,)), tmp_path)
    assert [(one.arm, one.exp.optimizer.lr) for one in planned] == [
        ("a", 0.1), ("b", 0.1), ("b", 0.5)
    ]  # fmt: skip
    own = _arms("c", edits=("optimizer.lr=0.3",))
    planned = runs.plan(dataclasses.replace(exp, arms=own), tmp_path)
    assert [one.directory.name for one in planned] == ["c-lr0.3-seed0"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("name=other", "which all arms share"),
        ("question=why", "which all arms share"),
        ("seeds=3", "which all arms share"),
        ("lrs=0.3", "which all arms share"),
        ("resume.allow=mesh", "which all arms share"),
        ("optimizer.lr=0.3", "which lrs sweeps"),
        ("train.seed=7", "which seeds sweeps"),
        ("optimizer.tau=0", "arm 'a': "),
    ],
)
def test_an_arms_edit_has_an_effect_or_is_refused(exp, edit, message, tmp_path):
    swept = dataclasses.replace(exp, arms=_arms("a", edits=(edit,)), lrs=(0.1, 0.2), seeds=2)
    with pytest.raises(config.ConfigError, match=message):
        runs.plan(swept, tmp_path)


@pytest.mark.parametrize(
    ("lrs", "seeds", "message"),
    [((0.1, 0.2, 0.1), 1, "0.1 twice"), ((1, 1.0), 1, "twice")],
)
def test_rates_named_twice_are_refused(exp, lrs, seeds, message, tmp_path):
    with pytest.raises(config.ConfigError, match=message):
        runs.plan(dataclasses.replace(exp, arms=_arms("a"), lrs=lrs, seeds=seeds), tmp_path)


@pytest.mark.parametrize(
    ("arm_edit", "given", "message"),
    [
        ("optimizer.tau=3", "optimizer.tau=4", r"optimizer.tau is what the arms compare"),
        (" optimizer.tau = 3", "optimizer.tau=4", r"optimizer.tau is what the arms compare"),
        ("optimizer.tau=3", " optimizer.tau =4", r"optimizer.tau is what the arms compare"),
        ("optimizer.tau=3", "optimizer.lr=4", r"set lrs="),
        ("optimizer.tau=3", "optimizer.tau=3", None),
        ("optimizer.tau=3", "optimizer.b1=0.5", None),
    ],
)
def test_an_edit_that_arms_override_is_refused(exp, arm_edit, given, message):
    compared = dataclasses.replace(exp, arms=_arms("a", edits=(arm_edit,)), lrs=(0.1,))
    if message is None:
        config.edit_experiment(compared, [given])
        return
    with pytest.raises(config.ConfigError, match=message):
        config.edit_experiment(compared, [given])


@pytest.fixture
def one(exp, tmp_path):
    """A run whose folder says that it was begun and saved once."""
    one = runs.Run("a", exp, tmp_path / "a")
    run_record.begin(one, exp.name, "", is_changed=False)
    (one.directory / "metrics.jsonl").write_text('{"step": 1}\n')
    return one


def test_a_folder_of_another_run_is_recognised_by_what_it_says(one):
    run_record.check(one, "test", is_changed=False)
    other = config.edit(one.exp, ["train.seed=3"])
    for stranger in (one._replace(arm="b"), one._replace(exp=other)):
        with pytest.raises(config.ConfigError, match="holds the run of arm 'a'"):
            run_record.check(stranger, "test", is_changed=False)
    # Of an older version only the result says so.
    content = json.loads((one.directory / "run.json").read_text())
    (one.directory / "run.json").rename(one.directory / "result.json")
    assert content["arm"] == "a"
    with pytest.raises(config.ConfigError, match="holds the run of arm 'a'"):
        run_record.check(one._replace(arm="b"), "test", is_changed=False)


def test_a_result_is_dropped_when_its_own_settings_change_and_metrics_are_kept(one):
    result = one.directory / "result.json"
    result.write_text("{}")
    allowed = config.edit(one.exp, ["resume.allow=lrs"])
    run_record.begin(one._replace(exp=allowed), "test", "", is_changed=True)
    assert result.exists()
    changed = config.edit(one.exp, ["optimizer.tau=9"])
    run_record.begin(one._replace(exp=changed), "test", "", is_changed=True)
    assert not result.exists()
    for name in ("metrics.jsonl", "metrics-1.jsonl"):
        assert (one.directory / name).read_text() == '{"step": 1}\n'


def test_lost_checkpoints_are_named_and_restarting_keeps_the_metrics(one):
    run_record.note_saved(one.directory, 8)
    with pytest.raises(run_record.checkpoint.NoUsableCheckpointError, match="saved at step 8"):
        run_record.check(one, "test", is_changed=False)
    again = one._replace(exp=config.edit(one.exp, ["resume.restart=true"]))
    run_record.check(again, "test", is_changed=False)
    run_record.begin(again, "test", "", is_changed=False)
    kept = one.directory / "metrics-1.jsonl"
    assert kept.read_text() == '{"step": 1}\n' and not (one.directory / "metrics.jsonl").exists()
    run_record.check(one, "test", is_changed=False)


def test_checkpoints_ahead_of_the_last_step_are_refused(one):
    (one.directory / "checkpoints" / "12").mkdir(parents=True)
    run_record.check(one, "test", is_changed=False)  # twelve steps are wanted
    fewer = one._replace(exp=config.edit(one.exp, ["train.num_steps=4"]))
    wanted = re.escape("train.num_steps = 4 is less than the 12 steps")
    with pytest.raises(config.ConfigError, match=wanted):
        run_record.check(fewer, "test", is_changed=True)
