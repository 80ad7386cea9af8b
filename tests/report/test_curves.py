"""Claims about the pictures, drawn for fabricated runs."""

import dataclasses
import json

import fabricate
import numpy as np
import pytest
import sample_curves

from kanana_jax.report import canvas, curves, depths, heatmaps, results
from kanana_jax.report.finals import Finals
from kanana_jax.report.metrics import Series


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return fabricate.sweep(tmp_path_factory.mktemp("sweep"))


def drawn(picture, runs, **settings):
    """The figure of a picture."""
    return picture.draw(runs, canvas.look(runs, **settings)).figure


def crosses(axes):
    return [line for line in axes.lines if line.get_marker() == "x"]


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_there_is_a_panel_per_place_and_a_band_per_arm_with_seeds(tmp_path):
    runs = [
        fabricate.run(tmp_path, arm=arm, lr=lr, seed=seed, num_steps=12)
        for arm in ("Muon NS", "MuonClip")
        for lr in (0.001, 0.003, 0.01, 0.03, 0.1)
        for seed in range(3)
    ]
    figure = drawn(sample_curves.LOGIT, runs)
    assert titles(figure) == [f"lr {lr}" for lr in ("0.001", "0.003", "0.01", "0.03", "0.1")]
    assert all(len(axes.collections) == 2 for axes in figure.axes)
    assert canvas.png(figure).startswith(b"\x89PNG")
    named = drawn(sample_curves.LOGIT, runs, names={"optimizer.lr": "learning rate"})
    assert titles(named)[0] == "learning rate 0.001"


def test_without_other_axes_there_is_one_panel_and_with_two_one_per_combination(tmp_path):
    def make(axes):
        name = "-".join(map(str, axes.values()))
        return fabricate.run(tmp_path / name, arm=axes["arm"], axes=axes, num_steps=5)

    arms = ("AdamW", "MuonClip")
    assert titles(drawn(sample_curves.LOSS, [make({"arm": arm}) for arm in arms])) == [""]
    runs = [
        make({"arm": arm, "optimizer.lr": lr, "model.width": width})
        for arm in arms
        for lr, width in ((0.1, 64), (0.1, 8), (0.01, 64))
    ]
    assert titles(drawn(sample_curves.LOSS, runs)) == [
        "lr 0.01, width 64", "lr 0.1, width 8", "lr 0.1, width 64",
    ]  # fmt: skip


def test_a_metric_that_no_run_recorded_gives_no_picture(tmp_path):
    run = fabricate.run(tmp_path, arm="Muon NS")
    assert sample_curves.CLIPPING.draw([run], canvas.look([run])) is None
    dead = _with_only_nan(fabricate.run(tmp_path, arm="AdamW", diverged_step=1))
    for picture in sample_curves.ALL:
        assert picture.draw([dead], canvas.look([dead])) is None


def test_only_the_runs_that_recorded_a_metric_are_drawn_each_in_its_colour(runs):
    look = canvas.look(runs)
    assert len(set(look.colors.values())) == len(fabricate.ARMS)
    clipping = sample_curves.CLIPPING.draw(runs, look).figure
    used = {line.get_color() for axes in clipping.axes for line in axes.lines}
    assert used == {look.colors["MuonClip"]}
    norm = sample_curves.NORM.draw(runs, look).figure
    assert {line.get_color() for line in norm.axes[0].lines} == set(look.colors.values())


def test_emphasized_arms_are_blue_and_wide(runs):
    look = canvas.look(runs, lambda run: run.arm == "MuonClip")
    assert look.colors["MuonClip"] == canvas.EMPHASIZED_COLORS[0]
    assert not set(canvas.EMPHASIZED_COLORS) & {
        color for arm, color in look.colors.items() if arm != "MuonClip"
    }
    widths = {arm: look.line_width(arm) for arm in look.colors}
    assert widths.pop("MuonClip") > max(widths.values())


def test_references_are_dashed_lines_and_stand_in_the_legend(tmp_path):
    runs = [fabricate.run(tmp_path, arm=f"tau {tau:g}", tau=tau) for tau in (100.0, 30.0)]
    figure = drawn(sample_curves.LOGIT, runs)
    heights = [
        float(line.get_ydata()[0]) for line in figure.axes[0].lines if line.get_linestyle() == "--"
    ]
    assert heights == [30.0, 100.0, 2.0]
    texts = [text.get_text() for one in figure.legends for text in one.get_texts()]
    assert texts[2:] == ["tau = 30, 100", "floor = 2"]
    without = curves.Reference("target", lambda run: None)
    assert without.heights(runs) == [] and curves.handles([without], runs) == []


def test_rows_have_their_own_limits_and_labels(tmp_path):
    figure = drawn(sample_curves.CLIPPING, [fabricate.run(tmp_path, arm="MuonClip", peak=90.0)])
    above, below = figure.axes
    assert (above.get_ylabel(), below.get_ylabel()) == ("heads", "gamma")
    assert above.get_ylim()[0] == 0.0
    assert below.get_ylim() == (0.0, 1.05)


BESIDE = curves.Curve(
    name="beside",
    title="Loss",
    reading="The dashed line is the average.",
    rows=(
        curves.Row(
            key="loss",
            label="loss",
            fits_trained=True,
            beside=curves.Beside("loss_average", "averaged weights"),
        ),
    ),
)


def _with_average(run, offset_N):
    """The run with a second series: its loss plus `offset_N`."""
    path = run.directory / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line, offset in zip(lines, offset_N, strict=True):
        line["loss_average"] = line["loss"] + offset
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return results.load(run.directory)


def test_a_second_metric_is_dashed_in_the_panel_of_the_runs_that_have_it(tmp_path):
    with_it = _with_average(fabricate.run(tmp_path, arm="Muon NS"), np.linspace(3.0, -0.5, 40))
    runs = [with_it, fabricate.run(tmp_path, arm="MuonClip")]
    look = canvas.look(runs)
    figure = BESIDE.draw(runs, look).figure
    (axes,) = figure.axes
    drawn_lines = [(line.get_color(), line.get_linestyle()) for line in axes.lines]
    assert drawn_lines == [
        (look.colors["Muon NS"], "-"),
        (look.colors["MuonClip"], "-"),
        (look.colors["Muon NS"], "--"),
    ]
    np.testing.assert_array_equal(
        axes.lines[2].get_ydata(), with_it.series("loss_average").values_N
    )
    # Its low end is in the picture; its start, far above, is not.
    low, high = axes.get_ylim()
    values_N = with_it.series("loss_average").values_N
    assert low < values_N.min() < with_it.series("loss").values_N.min()
    assert high < values_N[2]
    texts = [text.get_text() for one in figure.legends for text in one.get_texts()]
    assert texts == ["Muon NS", "MuonClip", "averaged weights"]
    alone = drawn(BESIDE, runs[1:])
    assert len(alone.axes[0].lines) == 1 and not alone.legends


def test_a_smoothed_curve_says_over_how_many_steps(tmp_path):
    run = fabricate.run(tmp_path, num_steps=150)
    sketch = sample_curves.LOSS.draw([run], canvas.look([run]))
    assert sketch.reading == "Mean of the last 3 steps."


def test_the_axis_of_a_loss_fits_what_living_runs_reach_after_the_first_steps(runs):
    alive = [run for run in runs if not run.diverged]
    figure = drawn(sample_curves.LOSS, runs)
    low, high = figure.axes[0].get_ylim()
    initial = max(run.series("loss").values_N[0] for run in alive)
    late = [run.series("loss").values_N[2:] for run in alive]
    assert low < min(map(np.min, late)) and max(map(np.max, late)) < high < initial


def _with_only_nan(run):
    path = run.directory / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": NaN, "max_logit": NaN, "max_logits": [[NaN, NaN]]}\n')
    return results.load(run.directory)


def test_a_run_whose_every_value_is_nan_still_plots(tmp_path):
    dead = _with_only_nan(fabricate.run(tmp_path, arm="AdamW", lr=0.1, diverged_step=1))
    runs = [dead, fabricate.run(tmp_path, arm="MuonClip", lr=0.1)]
    for picture in (sample_curves.LOSS, sample_curves.LOGIT, sample_curves.HEADS):
        assert canvas.png(drawn(picture, runs)).startswith(b"\x89PNG")


def test_the_cross_stands_at_the_last_finite_value_of_a_diverged_run(runs):
    figure = drawn(sample_curves.LOGIT, runs)
    (dead,) = [run for run in runs if run.diverged]
    (cross,) = crosses(figure.axes[2])
    np.testing.assert_array_equal(cross.get_xdata(), [20])
    np.testing.assert_array_equal(
        cross.get_ydata(), dead.series("max_logit").finite().values_N[-1:]
    )


def test_the_cross_of_a_run_that_ended_in_infinity_stands_on_its_finite_part(tmp_path):
    run = fabricate.run(tmp_path, arm="Muon NS", diverged_step=10)
    path = run.directory / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 12, "loss": Infinity, "max_logit": Infinity}\n')
    run = results.load(run.directory)
    (cross,) = crosses(drawn(sample_curves.LOGIT, [run]).axes[0])
    np.testing.assert_array_equal(cross.get_xdata(), [10])


def test_maps_are_of_the_place_where_they_get_highest_over_each_runs_own_reference(runs):
    look = canvas.look(runs)
    assert sample_curves.HEADS.draw(runs, look).title == "Heads, lr 0.03"
    calm = results.places(runs)[0]
    chosen = dataclasses.replace(sample_curves.HEADS, choose=lambda runs: calm)
    assert chosen.draw(runs, look).title == "Heads, lr 0.003"


def test_a_map_is_over_the_reference_of_its_run(tmp_path):
    runs = [fabricate.run(tmp_path, arm=f"{tau}", tau=tau, peak=90.0) for tau in (30.0, 100.0)]
    first, second = (heatmaps.snapshot(sample_curves.HEADS, run, 40) for run in runs)
    np.testing.assert_allclose([first.max(), second.max()], [3.0, 0.9], rtol=1e-12)


@pytest.mark.parametrize(("least_reach", "reach"), [(10.0, 10.0), (3.0, 4.0), (30.0, 30.0)])
def test_colours_reach_as_far_as_the_largest_value_and_no_less_than_asked(
    tmp_path, least_reach, reach
):
    run = fabricate.run(tmp_path, arm="Muon NS", tau=30.0, peak=120.0, tail=120.0)
    picture = dataclasses.replace(sample_curves.HEADS, least_reach=least_reach)
    image = drawn(picture, [run]).axes[0].images[0]
    np.testing.assert_allclose(image.get_clim(), (1 / reach, reach), rtol=1e-12)


def test_diverged_runs_stand_at_the_top_edge_of_the_final_loss_in_their_colour(runs):
    look = canvas.look(runs)
    (axes,) = Finals().draw(runs, look).figure.axes
    (cross,) = crosses(axes)
    assert cross.get_color() == look.colors["AdamW"]
    assert [text.get_text() for text in axes.texts] == ["diverged"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.003", "0.01", "0.03"]


def test_final_loss_is_drawn_against_one_axis_of_several_values_of_any_kind(tmp_path):
    def make(axes):
        name = "-".join(map(str, axes.values()))
        return fabricate.run(tmp_path / name, axes={"arm": "a"} | axes, num_steps=5)

    words = [make({"data.source": source}) for source in ("web", "books")]
    (axes,) = drawn(Finals(), words).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["web", "books"]
    assert axes.get_xlabel() == "source"
    two = [make({"x": value, "y": value}) for value in (1, 2)]
    for runs in (words[:1], two, [make({})]):
        assert Finals().draw(runs, canvas.look(runs)) is None


def test_smoothing_is_the_mean_of_the_last_records():
    series = Series(np.arange(5), np.array([1.0, 3.0, np.nan, 5.0, 7.0]))
    smoothed = canvas.smooth(series, window=2)
    np.testing.assert_array_equal(smoothed.steps_N, [0, 1, 3, 4])
    np.testing.assert_allclose(smoothed.values_N, [1.0, 2.0, 4.0, 6.0], rtol=1e-12)


def test_the_largest_of_an_array_is_its_largest_finite_entry():
    values_NLH = np.array([[[1.0, np.nan], [3.0, -2.0]], [[np.nan, np.nan], [np.nan, np.inf]]])
    largest = curves.largest(Series(np.arange(2), values_NLH))
    np.testing.assert_array_equal(largest.values_N, [3.0, np.nan])


def test_seeds_are_averaged_where_they_are_finite():
    first = Series(np.array([1, 2, 3]), np.array([1.0, 2.0, np.nan]))
    second = Series(np.array([2, 3]), np.array([4.0, 6.0]))
    steps_N, mean_N, low_N, high_N = canvas.over_seeds([first, second])
    np.testing.assert_array_equal(steps_N, [1, 2, 3])
    np.testing.assert_array_equal(mean_N, [1.0, 3.0, 6.0])
    np.testing.assert_array_equal(low_N, [1.0, 2.0, 6.0])
    np.testing.assert_array_equal(high_N, [1.0, 4.0, 6.0])


def test_a_row_draws_the_largest_entry_of_a_layer_or_the_mean_of_all(tmp_path):
    run = fabricate.run(tmp_path, arm="MuonClip", max_vio=0.7, num_steps=9)
    rows = [
        curves.Row(key="max_vio_layers", label="", reduction=reduction)
        for reduction in ("largest", "mean")
    ]
    largest, mean = (curves.picked(row, run, 1).values_N for row in rows)
    np.testing.assert_allclose(mean[-3:], 0.7, rtol=1e-12)
    np.testing.assert_array_equal(largest, run.series("max_vio").values_N)


def test_the_last_array_over_layers_is_drawn_against_depth(tmp_path):
    runs = [
        fabricate.run(tmp_path, arm=arm, seed=seed, num_sources=2)
        for arm in ("Muon NS", "MuonClip")
        for seed in range(2)
    ]
    picture = depths.Depths(
        name="depth", title="", reading="", key="specialisation_layers", label=""
    )
    (panel,) = drawn(picture, runs).axes
    lines = {line.get_color(): line.get_ydata() for line in panel.lines}
    colors = canvas.look(runs).colors
    for arm in results.arms(runs):
        own = [run.series("specialisation_layers").values_N[-1] for run in runs if run.arm == arm]
        np.testing.assert_allclose(lines[colors[arm]], np.mean(own, axis=0))
    assert len(panel.collections) == 2  # a band over seeds for each arm
    assert picture.draw([fabricate.run(tmp_path / "one", arm="AdamW")], canvas.look(runs)) is None
