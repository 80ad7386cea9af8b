"""Claims about the tables, figures and pages, over fabricated sweeps."""

import json
import math
import re
import subprocess
import sys

import fabricate
import numpy as np
import pytest

from kanana_jax.report import canvas, heatmaps, plots, results, single, stress, summary
from kanana_jax.report.metrics import Series


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return fabricate.sweep(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory):
    directory = tmp_path_factory.mktemp("report")
    return stress.write_stress_report(runs, fabricate.experiment(), directory / "report.html")


def test_the_page_loads_nothing_from_elsewhere(report):
    html = report.path.read_text()
    sources = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"'>\s]{0,30})", html)
    assert len(sources) >= 8
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"url\(|@import|<script|<link", html)


def test_the_page_says_what_was_asked_found_and_run(report):
    html = report.path.read_text()
    assert "Does &lt;b&gt;MuonClip&lt;/b&gt; hold?" in html  # escaped
    assert "MuonClip held: at lr 0.03" in html
    for words in ("0123abc", "jax 0.12.0", "1 x cpu", "--experiment=muon_stress", "2:30"):
        assert words in html
    assert html.index("MuonClip held") < html.index("<table>") < html.index("<img")


def test_every_figure_lies_beside_the_page_as_a_png(report):
    names = {path.stem for path in report.path.parent.glob("*.png")}
    assert names == {
        "overview", "max_logit", "max_logit_heads", "clipping", "loss", "heldout_bpb",
        "final_loss", "spectral_norm", "orthogonality_error", "rms", "max_vio",
    }  # fmt: skip
    assert report.path.read_text().count("<img") == len(names)


def test_the_text_for_a_terminal_is_the_table_and_the_verdict(report):
    assert report.text() == f"{report.table}\n{report.verdict.text()}"
    assert "[yes] Do unclipped Muon arms pass 3 x tau?" in report.text()
    assert report.text().isascii()


def test_the_table_reads_as_drawn_here(runs):
    shown = [run for run in runs if run.lr == 0.03 and run.arm in ("AdamW", "MuonClip")]
    table = summary.text_table(summary.summarize(shown))
    clips = results.select(shown, arm="MuonClip")[0].clip_events
    peak = results.select(shown, arm="AdamW")[0].peak_max_logit
    assert table.splitlines() == [
        "learning rate  arm       held-out bits per byte  peak max logit  peak / tau  "
        "last tenth / tau  clip events  status",
        "-------------  --------  ----------------------  --------------  ----------  "
        "----------------  -----------  -------------------",
        f"         0.03  AdamW                          -  {peak:14.1f}  {peak / 30:10.2f}  "
        "               -            -  diverged at step 20",
        "         0.03  MuonClip        3.0600 +- 0.0050            49.0        1.63  "
        f"            1.03  {clips:11d}  ok",
    ]


def test_with_seeds_the_table_gives_their_mean_and_standard_deviation(tmp_path):
    seeds = [
        fabricate.run(tmp_path, arm="MuonClip", seed=seed, bpb=bpb)
        for seed, bpb in enumerate((2.70, 2.71, 2.72))
    ]
    seeds.append(fabricate.run(tmp_path, arm="MuonClip", seed=3, diverged_step=30))
    (cell,) = summary.summarize(seeds)
    np.testing.assert_allclose(cell.heldout_bpb, 2.71, rtol=1e-12)
    np.testing.assert_allclose(cell.heldout_error, 0.01, rtol=1e-9)
    assert cell.status == "1 of 4 diverged at step 30"


def test_peak_and_tail_are_those_of_the_series(tmp_path):
    run = fabricate.run(tmp_path, peak=90.0, tail=33.0)
    np.testing.assert_allclose(run.peak_max_logit, 90.0, rtol=1e-12)
    np.testing.assert_allclose(run.tail_max_logit, 33.0, rtol=1e-12)


def test_a_run_without_seeds_or_experts_or_arms_gets_a_page_of_its_own(tmp_path):
    run = fabricate.run(tmp_path, arm="MuonClip")
    path = tmp_path / "report" / "report.html"
    table = single.write_run_report(run, fabricate.experiment(), path)
    assert "2.7000 +- 0.0050" in table
    html = path.read_text()
    assert "After 40 steps: 2.7000 \u00b1 0.0050 held-out bits per byte" in html
    names = {path.stem for path in path.parent.glob("*.png")}
    assert "loss" in names
    assert not names & {"overview", "final_loss"}  # they compare rates


def test_figures_of_metrics_that_no_run_recorded_are_left_out(tmp_path):
    run = fabricate.run(tmp_path, arm="Muon NS")
    path = run.directory / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [{key: line[key] for key in ("step", "loss", "max_logit")} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in kept))
    fresh = results.load(run.directory)
    single.write_run_report(fresh, fabricate.experiment(), tmp_path / "report" / "report.html")
    names = {path.stem for path in (tmp_path / "report").glob("*.png")}
    assert names == {"loss", "max_logit"}


def test_plots_draw_bands_for_three_seeds_and_wrap_five_rates(tmp_path):
    runs = [
        fabricate.run(tmp_path, arm=arm, lr=lr, seed=seed, num_steps=12)
        for arm in ("Muon NS", "MuonClip")
        for lr in (0.001, 0.003, 0.01, 0.03, 0.1)
        for seed in range(3)
    ]
    figure = plots.max_logit(runs)
    visible = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in visible] == [
        f"learning rate {lr}" for lr in ("0.001", "0.003", "0.01", "0.03", "0.1")
    ]
    assert all(len(axes.collections) == 2 for axes in visible)  # a band per arm
    assert canvas.png(figure).startswith(b"\x89PNG")


def test_a_run_whose_every_value_is_nan_still_plots(tmp_path):
    dead = fabricate.run(tmp_path, arm="AdamW", lr=0.1, diverged_step=1)
    path = dead.directory / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": NaN, "max_logit": NaN, "max_logits": [[NaN, NaN]]}\n')
    alive = fabricate.run(tmp_path, arm="MuonClip", lr=0.1)
    runs = [results.load(dead.directory), alive]
    for draw in (plots.loss, plots.max_logit, plots.final_loss, heatmaps.max_logits):
        assert canvas.png(draw(runs)).startswith(b"\x89PNG")


def test_the_cross_stands_at_the_last_finite_value_of_a_diverged_run(runs):
    figure = plots.max_logit(runs)
    (dead,) = [run for run in runs if run.diverged]
    crosses = [line for line in figure.axes[2].lines if line.get_marker() == "x"]
    assert len(crosses) == 1
    np.testing.assert_array_equal(crosses[0].get_xdata(), [20])
    np.testing.assert_array_equal(
        crosses[0].get_ydata(), dead.series("max_logit").finite().values_N[-1:]
    )


def test_the_cross_of_a_run_that_ended_in_infinity_stands_on_its_finite_part(tmp_path):
    run = fabricate.run(tmp_path, arm="Muon NS", diverged_step=10)
    with (run.directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "loss": 9.0, "max_logit": Infinity}\n')
    run = results.load(run.directory)
    assert run.peak_max_logit == math.inf
    (cross,) = [line for line in plots.max_logit([run]).axes[0].lines if line.get_marker() == "x"]
    np.testing.assert_array_equal(cross.get_xdata(), [10])


def test_diverged_runs_stand_at_the_top_edge_of_the_final_loss_in_their_colour(runs):
    (axes,) = plots.final_loss(runs).axes
    (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
    assert cross.get_color() == canvas.colors(runs)["AdamW"]
    assert [text.get_text() for text in axes.texts] == ["diverged"]


def test_an_arm_keeps_its_colour_in_every_figure(runs):
    colors = canvas.colors(runs)
    assert len(set(colors.values())) == len(fabricate.ARMS)
    assert colors["MuonClip"] == canvas.CLIPPED_COLORS[0]
    clipping = plots.clipping(runs)
    assert {line.get_color() for axes in clipping.axes for line in axes.lines} == {
        colors["MuonClip"]
    }
    spectral = plots.spectral_norm(runs)
    drawn = {line.get_color() for line in spectral.axes[0].lines}
    assert drawn == set(colors.values())


def test_smoothing_is_the_mean_of_the_last_records():
    series = Series(np.arange(5), np.array([1.0, 3.0, np.nan, 5.0, 7.0]))
    smoothed = canvas.smooth(series, window=2)
    np.testing.assert_array_equal(smoothed.steps_N, [0, 1, 3, 4])
    np.testing.assert_allclose(smoothed.values_N, [1.0, 2.0, 4.0, 6.0], rtol=1e-12)


def test_seeds_are_averaged_where_they_are_finite():
    first = Series(np.array([1, 2, 3]), np.array([1.0, 2.0, np.nan]))
    second = Series(np.array([2, 3]), np.array([4.0, 6.0]))
    steps_N, mean_N, low_N, high_N = canvas.over_seeds([first, second])
    np.testing.assert_array_equal(steps_N, [1, 2, 3])
    np.testing.assert_array_equal(mean_N, [1.0, 3.0, 6.0])
    np.testing.assert_array_equal(low_N, [1.0, 2.0, 6.0])
    np.testing.assert_array_equal(high_N, [1.0, 4.0, 6.0])


def test_a_sweep_over_tau_ends_in_a_report_with_each_run_over_its_own(tmp_path):
    runs = [
        fabricate.run(tmp_path, arm=f"Muon, tau {tau:g}", tau=tau, peak=90.0)
        for tau in (30.0, 100.0)
    ]
    written = stress.write_stress_report(runs, fabricate.experiment(), tmp_path / "report.html")
    assert [line.split()[-4] for line in written.table.splitlines()[2:]] == ["3.00", "0.90"]
    assert "tau = 30, 100." in written.path.read_text()
    dashed = [
        float(line.get_ydata()[0])
        for line in plots.max_logit(runs).axes[0].lines
        if line.get_linestyle() == "--"
    ]
    assert dashed == [30.0, 100.0]
    first, second = (heatmaps._snapshot(run, 40) for run in runs)
    np.testing.assert_allclose([first.max(), second.max()], [3.0, 0.9], rtol=1e-12)


def test_no_runs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one finished run"):
        stress.write_stress_report([], fabricate.experiment(), tmp_path / "report.html")


def test_an_unfinished_run_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"finished run with result.json, got .*half"):
        results.load(tmp_path / "half")


def test_an_experiment_without_its_configuration_is_refused(runs, tmp_path):
    with pytest.raises(ValueError, match="under 'config', got"):
        stress.write_stress_report(runs[:1], {"commit": "x"}, tmp_path / "report.html")


def test_importing_the_package_loads_no_drawing_library():
    code = (
        "import sys, kanana_jax.report; "
        "heavy = {'matplotlib', 'tensorboardX', 'jinja2', 'tqdm', 'jax'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
