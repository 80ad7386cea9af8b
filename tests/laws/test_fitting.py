"""The fits find the law that made the losses, in two ways, and say when they cannot."""

import json

import numpy as np
import pytest

from kanana_jax.laws import __main__ as command
from kanana_jax.laws import design, errors, fitting, forms, intervals, objective, recovery

pytestmark = pytest.mark.slow

# Of an earlier study of the same law with other mixtures: standard deviations over ten draws of
# noise, 64 points, by the size of the noise.
SD = {
    0.003: {
        "E": 0.045,
        "alpha": 0.008,
        "beta": 0.008,
        "lam": 0.018,
        "tau_1": 0.007,
        "tau_2": 0.003,
        "tau_other": 0.012,
    },
    0.01: {
        "E": 0.17,
        "alpha": 0.023,
        "beta": 0.029,
        "lam": 0.077,
        "tau_1": 0.028,
        "tau_2": 0.009,
        "tau_other": 0.039,
    },
}


FORM = recovery.TRUTH.form


@pytest.fixture(scope="module")
def points():
    return recovery.points()


@pytest.mark.parametrize("method", ["direct", "projected"])
@pytest.mark.long
def test_without_noise_the_law_is_found_exactly(points, method):
    start = _near() + np.linspace(-0.05, 0.05, 9)
    found = fitting.fit(FORM, points, recovery.TRUTH.loss(points), method=method, start=start)
    assert found.is_converged, found.message
    for name, value in recovery.TRUTH.values.items():
        np.testing.assert_allclose(found.law[name], value, rtol=1e-4, err_msg=name)


@pytest.mark.long
def test_both_ways_agree_and_the_interval_holds_the_truth(points):
    losses = _losses(points, 0.003, seed=1)
    projected = fitting.fit(FORM, points, losses)
    direct = fitting.fit(FORM, points, losses, method="direct")
    for name in recovery.TRUTH.values:
        np.testing.assert_allclose(projected.law[name], direct.law[name], rtol=1e-3, err_msg=name)
    found = intervals.of_fit(projected, points, num_draws=30)
    held = [
        name
        for name, value in recovery.TRUTH.values.items()
        if found.bands[name].low < value < found.bands[name].high
    ]
    assert len(held) >= 7, found.bands
    for name, sd in SD[0.003].items():
        low, high = found.bands[name]
        assert sd < high - low < 10 * sd, name
        assert abs(projected.law[name] - recovery.TRUTH[name]) < 4 * sd, name


@pytest.mark.long
@pytest.mark.parametrize("sigma", [0.003, 0.01])
def test_over_ten_draws_of_noise_the_truth_is_recovered(points, sigma):
    """Means lie within one reference deviation of the truth, spreads below 3.5 of them."""
    draws = [
        fitting.fit(FORM, points, _losses(points, sigma, seed)).law.values for seed in range(10)
    ]
    for name, sd in SD[sigma].items():
        found_D = np.array([one[name] for one in draws])
        assert abs(found_D.mean() - recovery.TRUTH[name]) < sd, name
        assert found_D.std(ddof=1) < 3.5 * sd, name


@pytest.mark.long
def test_points_of_one_run_share_their_luck(points):
    losses = _losses(points, 0.003, seed=2)
    found = fitting.fit(FORM, points, losses, start=_near())
    alone = intervals.of_fit(found, points, num_draws=20)
    joint = intervals.of_fit(found, points, num_draws=20, runs_P=np.arange(64) // 16)
    assert alone.bands["alpha"] != joint.bands["alpha"]
    assert alone.of(lambda law: law["alpha"]) == alone.bands["alpha"]
    with pytest.raises(errors.LawError, match="two or more"):
        intervals.of_fit(found, points, runs_P=np.zeros(64))


def _losses(at, sigma, seed):
    luck_P = np.random.default_rng(seed).normal(0, sigma, len(at))
    return recovery.TRUTH.loss(at) * np.exp(luck_P)


def _near():
    """The truth as a vector, so that a test of something else need not search."""
    return objective.as_vector(recovery.TRUTH, recovery.points())


def test_fewer_points_than_parameters_and_bad_losses_are_refused(points):
    few = recovery.points(sizes=recovery.SIZES[:1], tokens=recovery.TOKENS[:2])
    with pytest.raises(errors.LawError, match="needs more points than that, got 8"):
        fitting.fit(FORM, few, np.ones(8))
    with pytest.raises(errors.LawError, match="expected 64 positive losses"):
        fitting.fit(FORM, points, -np.ones(64))


NEVER_TWICE = {"unique_target": np.inf}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sizes": [1e6]}, ["alpha (no loss depends on it)", "E and A apart"]),
        ({"sizes": [1e6, 3e6]}, ["E, A and alpha apart"]),
        ({"tokens": [5e6]}, ["lam", "tau_other apart"]),
        (
            {"mixes": recovery.MIXES[:3]},
            [
                "tau_1 (its text has one mixture share, 0.4",
                "tau_other (its text has one mixture share, 0.1",
            ],
        ),
        (
            {
                "mixes": [
                    (1, 0, 0, 0),
                    (0.5, 0.3, 0.1, 0.1),
                    (0.2, 0.4, 0.3, 0.1),
                    (0.4, 0.3, 0.2, 0.1),
                ]
            },
            ["tau_other (its text has one mixture share"],
        ),
        (
            {"mixes": [(1, 0, 0, 0), (0.5, 0.4, 0, 0.1), (0.2, 0.3, 0, 0.5)]},
            ["tau_2 (no loss depends on it)"],
        ),
    ],
)
def test_a_design_that_leaves_parameters_open_is_refused_by_their_names(changes, named):
    with pytest.raises(errors.LawError) as caught:
        design.check(FORM, recovery.points(**changes))
    for words in named:
        assert words in str(caught.value)


def test_without_repetition_lam_is_open():
    sizes, tokens = np.meshgrid(recovery.SIZES, recovery.TOKENS)
    points = forms.points(sizes.ravel(), tokens.ravel())
    found = " ".join(design.open_parameters(forms.atlas(0), points))
    assert "lam (no loss depends on it; read some text more than once)" in found
    design.check(forms.CHINCHILLA, points)


def test_a_sufficient_design_passes_and_mixed_states_of_the_rate_do_not(points):
    design.check(FORM, points, ["constant, average"] * 64)
    with pytest.raises(errors.LawError, match="one state of the learning rate, got constant, dec"):
        design.check(FORM, points, ["constant", "decayed"] * 32)


def test_the_law_knows_languages_that_the_blind_one_does_not(points):
    """Both are asked for the losses of a mixture that neither has seen."""
    losses = _losses(points, 0.001, seed=3)
    out = recovery.points(mixes=[(0.3, 0.1, 0.1, 0.5)])
    knowing = fitting.fit(FORM, points, losses, start=_near()).law
    blind = fitting.fit(forms.CHINCHILLA, points, losses).law
    errors_of = [
        np.abs(np.log(law.loss(out) / recovery.TRUTH.loss(out))) for law in (knowing, blind)
    ]
    assert errors_of[0].max() < 0.005
    assert errors_of[1].mean() > 0.03


def test_the_command_tells_what_a_design_can_know(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fitting, "NUM_POLISHED", 1)
    command.main(["recover", "--noise=0.003", "--draws=2", f"--out={tmp_path}"])
    assert "noise 0.003 of ln loss, 2 draws, 0 not converged" in capsys.readouterr().out
    record = json.loads((tmp_path / "recover.json").read_text())
    (one,) = record["noise"]
    np.testing.assert_allclose(np.mean(one["found"]["alpha"]), 0.34, atol=0.03)
    assert (tmp_path / "recover.png").stat().st_size > 10_000
    with pytest.raises(SystemExit, match="2"):
        command.main(["recover", "--noise=none"])
