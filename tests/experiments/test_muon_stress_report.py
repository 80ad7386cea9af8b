"""Claims about the page with the verdict about QK-Clip, over fabricated sweeps."""

import re

import fabricate
import pytest

from experiments.muon_stress import arms, figures, report, verdict
from kanana_jax.jobs import curves
from kanana_jax.report import canvas, results, tables


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return fabricate.sweep(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    return path, report.write(runs, fabricate.about(), path)


def test_the_page_says_what_was_found_before_its_table_and_pictures(written):
    html = written[0].read_text()
    assert "Does &lt;b&gt;MuonClip&lt;/b&gt; hold?" in html  # escaped
    assert "<h2>How to read QK-Clip</h2>" in html
    assert html.index("MuonClip held: at lr 0.03") < html.index("<table>") < html.index("<img")


def test_every_figure_lies_beside_the_page_in_the_order_of_the_page(written):
    path, _ = written
    titles = re.findall(r"<figcaption><strong>([^<]*)", path.read_text())
    assert titles == [
        "In short",
        "Max attention logit",
        "Max logit of every layer and head, learning rate 0.03",
        "Clip activity",
        "Training loss",
        "Held-out bits per byte",
        "Final held-out bits per byte against learning rate",
        "Spectral norm of the query-key products",
        "Orthogonality error of the update",
        "Size of gradients and updates",
        "Expert balance",
        "Load of every expert, learning rate 0.003",
    ]
    assert {one.stem for one in path.parent.glob("*.png")} == {
        "overview", "max_logit", "max_logit_heads", "clipping", "loss", "heldout_bpb",
        "final_loss", "spectral_norm", "orthogonality_error", "rms", "max_vio",
        "expert_load",
    }  # fmt: skip


def test_the_text_for_a_terminal_is_the_table_and_the_verdict(runs, written):
    _, text = written
    table, judged = text.split("\n\n", 1)
    assert table.startswith("learning rate  arm ")
    assert judged == verdict.judge(runs).text()
    assert "[yes] Do unclipped Muon arms pass 3 x tau?" in text
    assert text.isascii()


def test_the_table_reads_as_drawn_here(runs):
    shown = [run for run in runs if arms.lr(run) == 0.03 and run.arm in ("AdamW", "MuonClip")]
    cells = tables.summarize(shown)
    table = tables.text(tables.table(cells, curves.COLUMNS, figures.NAMES))
    clips = curves.clip_events(results.select(shown, arm="MuonClip")[0])
    peak = curves.peak_max_logit(results.select(shown, arm="AdamW")[0])
    assert clips > 0
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


def test_clipped_arms_are_blue_in_every_figure(runs):
    look = canvas.look(runs, arms.is_clipped, figures.NAMES)
    assert len(set(look.colors.values())) == len(fabricate.ARMS)
    assert look.colors["MuonClip"] == canvas.EMPHASIZED_COLORS[0]
    sketches = {one.name: one.draw(runs, look) for one in figures.pictures()}
    drawn = {line.get_color() for axes in sketches["clipping"].figure.axes for line in axes.lines}
    assert drawn == {look.colors["MuonClip"]}
    spectral = sketches["spectral_norm"].figure
    assert {line.get_color() for line in spectral.axes[0].lines} == set(look.colors.values())


def test_the_overview_shows_the_rate_at_which_unclipped_muon_peaks_highest(runs, tmp_path):
    at = {place: results.select(runs, place=place) for place in results.places(runs)}
    calm, middle, stress = at
    assert figures.telling_place(runs) == stress
    assert figures.telling_place([*at[calm], *at[middle]]) == middle
    wild = fabricate.run(tmp_path, arm="AdamW", lr=0.003, seed=1, peak=1e4)
    assert figures.telling_place([*runs, wild]) == stress
    sketch = figures.Overview().draw(runs, canvas.look(runs, arms.is_clipped, figures.NAMES))
    left, right = sketch.figure.axes
    assert left.get_title(loc="left") == "Max attention logit at learning rate 0.03"
    assert right.get_xlabel() == "peak learning rate"


@pytest.mark.long
def test_a_sweep_over_tau_ends_in_a_report_with_each_run_over_its_own(tmp_path):
    runs = [
        fabricate.run(tmp_path, arm=f"Muon, tau {tau:g}", tau=tau, peak=90.0)
        for tau in (30.0, 100.0)
    ]
    text = report.write(runs, fabricate.about(), tmp_path / "report.html")
    table = text.split("\n\n")[0]
    assert [line.split()[-4] for line in table.splitlines()[2:]] == ["3.00", "0.90"]
    assert "tau = 30, 100." in (tmp_path / "report.html").read_text()


@pytest.mark.long
def test_other_axes_than_the_rate_get_the_report_of_any_comparison(tmp_path):
    runs = [
        fabricate.run(tmp_path, arm=arm, seed=width, bpb=3.0 + width / 100,
                      axes={"arm": arm, "model.width": width})
        for arm in ("Muon NS", "MuonClip")
        for width in (1, 2)
    ]  # fmt: skip
    text = report.write(runs, fabricate.about(), tmp_path / "report.html")
    assert "as good as Muon NS's at the same width?" in text
    assert "x tau" not in text


def test_no_runs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one finished run"):
        report.write([], fabricate.about(), tmp_path / "report.html")
