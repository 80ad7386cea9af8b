"""Which runs a comparison has, and that none is taken for another."""

import unicodedata

import hypothesis
import hypothesis.strategies as st
import pytest

from kanana_jax import config
from kanana_jax.jobs import sweep
from kanana_jax.report import progress

RATE = "optimizer.lr"


def _arms(*names, edits=()):
    return tuple(sweep.Arm(name=name, edits=edits) for name in names)


def _plan(cfg, tmp_path, arms, *lrs, seeds=1):
    axes = (sweep.Axis(RATE, lrs),) if lrs else ()
    return sweep.plan(sweep.Sweep(base=cfg, arms=arms, axes=axes, seeds=seeds), tmp_path)


def _folders(cfg, tmp_path, names):
    return [one.directory.name for one in _plan(cfg, tmp_path, _arms(*names), 0.01)]


def test_the_plan_has_every_arm_at_every_rate_and_seed(cfg, tmp_path):
    arms = (
        sweep.Arm(name="AdamW", edits=("optimizer.name=adamw",)),
        sweep.Arm(name="MuonClip", edits=("optimizer.name=muonclip",)),
    )
    runs = _plan(cfg, tmp_path, arms, 0.003, 0.01, seeds=3)
    found = {(one.axes["arm"], one.config.optimizer.lr, one.config.train.seed) for one in runs}
    assert len(found) == len(runs) == 2 * 2 * 3
    assert {one.config.optimizer.name for one in runs if one.axes["arm"] == "AdamW"} == {"adamw"}
    assert len({one.directory for one in runs}) == len(runs)
    for one in runs:
        of_config = {RATE: one.config.optimizer.lr, "seed": one.config.train.seed}
        assert one.axes == {"arm": one.axes["arm"]} | of_config


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("Muon, Polar Express", "muon-polar-express"),
        ("lr_decay (0.1)", "lr-decay-0-1"),
        ("\ub274\ud134", "\ub274\ud134"),
        (unicodedata.normalize("NFD", "\ub274\ud134 2"), "\ub274\ud134-2"),
    ],
)
def test_a_folder_is_named_readably_in_any_script(cfg, name, folder, tmp_path):
    assert _folders(cfg, tmp_path, [name]) == [f"{folder}-lr0.01-seed0"]


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
def test_names_that_a_file_system_could_confuse_get_a_hash(cfg, names, tmp_path):
    found, other_way = (_folders(cfg, tmp_path, order) for order in (names, names[::-1]))
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
def test_names_that_look_alike_are_refused(cfg, names, message, tmp_path):
    with pytest.raises(config.ConfigError, match=message):
        _plan(cfg, tmp_path, _arms(*names))


@hypothesis.given(
    names=st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=6),
    lrs=st.lists(st.floats(1e-9, 10), min_size=1, max_size=4),
    taus=st.lists(st.floats(1e-3, 1e3), max_size=2),
    seeds=st.integers(1, 3),
)
@hypothesis.settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_every_run_has_a_folder_of_its_own_or_the_plan_is_refused(
    cfg, names, lrs, taus, seeds, tmp_path
):
    axes = [sweep.Axis(RATE, tuple(lrs))]
    if taus:
        axes.append(sweep.Axis("optimizer.tau", tuple(taus)))
    try:
        made = sweep.Sweep(base=cfg, arms=_arms(*names), axes=tuple(axes), seeds=seeds)
        planned = sweep.plan(made, tmp_path)
    except config.ConfigError:
        return
    folders = {unicodedata.normalize("NFKC", one.directory.name).casefold(): one for one in planned}
    wanted = len(set(names)) * len(set(lrs)) * max(1, len(set(taus))) * seeds
    assert len(folders) == len(planned) == wanted
    assert all(one.directory.parent == tmp_path / "runs" for one in planned)


@hypothesis.given(st.floats(1e-300, 1e300))
def test_a_rate_is_shown_exactly(lr):
    assert float(progress.rate(lr)) == lr


@pytest.mark.parametrize(("lr", "shown"), [(0.02, "0.02"), (3.0, "3"), (1e-5, "1e-05")])
def test_a_short_rate_is_shown_short(lr, shown):
    assert progress.rate(lr) == shown


def test_rates_and_seeds_without_arms_are_a_sweep(cfg, tmp_path):
    planned = _plan(cfg, tmp_path, (), 0.01, 0.02, seeds=2)
    found = [tuple(one.axes.values()) for one in planned]
    assert found == [("test", lr, seed) for lr in (0.01, 0.02) for seed in (0, 1)]


def test_an_arm_may_have_rates_of_its_own(cfg, tmp_path):
    arms = (*_arms("a"), sweep.Arm(name="b", axes=(sweep.Axis(RATE, (0.5,)),)))
    planned = _plan(cfg, tmp_path, arms, 0.1)
    assert [(one.axes["arm"], one.config.optimizer.lr) for one in planned] == [
        ("a", 0.1), ("b", 0.1), ("b", 0.5)
    ]  # fmt: skip
    (own,) = _plan(cfg, tmp_path, _arms("c", edits=("optimizer.lr=0.3",)))
    assert (own.directory.name, own.config.optimizer.lr) == ("c-seed0", 0.3)


def test_an_arms_own_axis_leaves_the_others_where_the_base_is(cfg, tmp_path):
    arms = (*_arms("a"), sweep.Arm(name="b", axes=(sweep.Axis("optimizer.tau", (3.0, 9.0)),)))
    planned = sweep.plan(sweep.Sweep(base=cfg, arms=arms), tmp_path)
    assert [(one.axes["arm"], one.axes["optimizer.tau"]) for one in planned] == [
        ("a", 0.5), ("b", 0.5), ("b", 3.0), ("b", 9.0)
    ]  # fmt: skip
    assert [one.config.optimizer.tau for one in planned] == [0.5, 0.5, 3.0, 9.0]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("name=other", "which all arms share"),
        ("question=why", "which all arms share"),
        ("seeds=3", "arm 'a': unknown setting 'seeds'"),
        ("axes=0.3", "arm 'a': unknown setting 'axes'"),
        ("resume.allow=mesh", "which all arms share"),
        ("optimizer.lr=0.3", "sets optimizer.lr, which is an axis"),
        ("train.seed=7", "which seeds sweeps"),
        ("optimizer.tau=0", "arm 'a': "),
    ],
)
def test_an_arms_edit_has_an_effect_or_is_refused(cfg, edit, message, tmp_path):
    with pytest.raises(config.ConfigError, match=message):
        _plan(cfg, tmp_path, _arms("a", edits=(edit,)), 0.1, 0.2, seeds=2)


@pytest.mark.parametrize(("lrs", "message"), [((0.1, 0.2, 0.1), "0.1 twice"), ((1, 1.0), "twice")])
def test_rates_named_twice_are_refused(cfg, lrs, message, tmp_path):
    with pytest.raises(config.ConfigError, match=message):
        _plan(cfg, tmp_path, _arms("a"), *lrs)
