"""Claims about the pages of one run and of a comparison, and about the record they read."""

import dataclasses
import re

import fabricate
import pytest
import sample_curves

from kanana_jax.report import canvas, comparison, page, single
from kanana_jax.workdir import provenance


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return fabricate.sweep(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    return path, comparison.write(runs, fabricate.about(), path, curves=sample_curves.ALL)


@pytest.mark.slow
def test_the_page_loads_nothing_from_elsewhere(written):
    html = written[0].read_text()
    sources = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"'>\s]{0,30})", html)
    assert len(sources) == 1 + len(sample_curves.ALL)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"url\(|@import|<script|<link", html)


def test_the_page_says_what_was_asked_found_and_run(written):
    html = written[0].read_text()
    assert "Does &lt;b&gt;MuonClip&lt;/b&gt; hold?" in html  # escaped
    found = "The lowest held-out loss is 2.7000 \u00b1 0.0050 bits per byte: MuonClip at lr 0.01. "
    assert found + "This is what one seed did." in html
    for words in ("0123abc", "jax 0.12.0", "1 x cpu", "--experiment=muon_stress", "2:30"):
        assert words in html
    assert html.index(found) < html.index("<table>") < html.index("<img")


def test_every_figure_lies_beside_the_page_as_a_png(written):
    path, _ = written
    names = {one.stem for one in path.parent.glob("*.png")}
    assert names == {"final_loss", *(picture.name for picture in sample_curves.ALL)}
    assert path.read_text().count("<img") == len(names)


def test_a_figure_can_be_tapped_and_a_number_stays_on_its_line(written):
    html = written[0].read_text()
    assert html.count('<label class="zoom"') == html.count("<img") == html.count("</label>")
    assert re.search(r"td \{ white-space: nowrap; \}", html)


def test_the_text_for_a_terminal_is_the_table_and_what_was_found(written):
    _, text = written
    assert text.startswith("   lr  arm       held-out bits per byte  status")
    assert "Is MuonClip's held-out loss as good as AdamW's at the same lr?" in text
    assert "[ no] Did every arm run below and above its own best lr?" in text
    assert "AdamW at lr 0.03: diverged at step 20" in text
    assert text.isascii()


def test_one_run_gets_a_page_with_a_headline_and_columns_of_its_own_or_none(tmp_path):
    run = fabricate.run(tmp_path, axes={})
    path = tmp_path / "report" / "report.html"
    table = single.write_run_report(run, fabricate.about(), path, curves=sample_curves.ALL)
    assert "2.7000 +- 0.0050" in table
    html = path.read_text()
    assert "After 40 steps: 2.7000 \u00b1 0.0050 held-out bits per byte" in html
    assert "<strong>Heads</strong>" in html
    assert html.index("<img") < html.index("<h2>All numbers</h2>") < html.index("final loss")
    single.write_run_report(run, fabricate.about(), path, curves=(), headline="Done.", columns=())
    assert "Done." in path.read_text() and "<td" in path.read_text()
    assert "2.7000" not in path.read_text()


def test_one_run_that_diverged_or_had_no_held_out_text_says_so(tmp_path):
    assert single.ending(fabricate.run(tmp_path, axes={}, diverged_step=7)) == (
        "The run diverged at step 7."
    )
    run = fabricate.run(tmp_path, axes={})
    assert single.ending(dataclasses.replace(run, values={})) == "The run did its 40 steps."


def test_a_section_stands_before_the_figures(tmp_path):
    path = tmp_path / "report.html"
    page.write(path, about=fabricate.about(), figures=(), facts=(), sections=[("How", "a < b")])
    html = path.read_text()
    assert html.index("<h2>How</h2>") < html.index("a &lt; b") < html.index("<h2>Figures</h2>")


def test_no_runs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one finished run"):
        comparison.write([], fabricate.about(), tmp_path / "report.html", curves=())


def test_the_page_reads_the_record_that_a_working_directory_keeps(tmp_path):
    config = {"name": "mine", "question": "Why?"}
    provenance.write(tmp_path, config)
    about = provenance.load(tmp_path)
    assert set(about) == {"config", *page.PROVENANCE}
    assert set(about) == set(fabricate.about())
    facts = dict(page.provenance(about))
    assert facts.keys() == {"Command", "Commit", "Started", "Device", "Versions"}
    assert facts["Versions"].startswith(f"python {about['python']}, jax ")
    path = tmp_path / "report.html"
    page.write(path, about=about, figures=(), facts=())
    assert '<h1>mine</h1>\n<p class="question">Why?</p>' in path.read_text()


def test_a_record_that_lacks_a_part_is_refused_and_what_is_not_known_left_out(runs, tmp_path):
    with pytest.raises(ValueError, match="it lacks config, command, started"):
        comparison.write(
            runs[:1],
            {"commit": "x", "device": "", "python": "", "versions": {}},
            tmp_path / "report.html",
            curves=(),
        )
    facts = dict(page.provenance(fabricate.about() | {"command": ""}))
    assert "Command" not in facts


NAMES = {"AdamW": "arm 1", "Muon NS": "\ub274\ud134", "Muon PE": "_p$o$lar", "MuonClip": "$x"}


@pytest.fixture
def latin_alone(monkeypatch):
    """Figures have no font for other letters."""
    with monkeypatch.context() as patch:
        patch.setattr(canvas, "FAMILIES", ())
        _forget_fonts()
        yield
    _forget_fonts()


def _forget_fonts():
    canvas._families.cache_clear()
    canvas._drawable.cache_clear()


@pytest.mark.usefixtures("latin_alone")
@pytest.mark.long
def test_arms_of_any_name_are_told_apart_in_figures(runs, tmp_path, monkeypatch):
    """Warnings, which matplotlib gives of letters that it cannot draw, are errors here."""
    legends, legend = [], canvas.legend

    def watched(figure, shown, *args, **named):
        legend(figure, shown, *args, **named)
        texts = [text for one in figure.legends for text in one.get_texts()]
        legends.append([text.get_text() for text in texts])

    monkeypatch.setattr(canvas, "legend", watched)
    named = [
        dataclasses.replace(run, axes=run.axes | {"arm": NAMES[run.arm]})
        for run in runs
        if run.axis("optimizer.lr") == 0.01
    ]
    path = tmp_path / "report.html"
    comparison.write(named, fabricate.about(), path, curves=sample_curves.ALL)
    assert ["arm 1", "arm 2", r" _p\$o\$lar", r"\$x", "tau = 30", "floor = 2"] in legends
    html = path.read_text(encoding="utf-8")
    assert html.count("In it arm 2 is \ub274\ud134.") == html.count("<img")


def test_a_number_that_is_another_arms_name_is_not_given_twice():
    assert list(canvas.labels(["arm 2", "\ub274"]).values()) == ["arm 2", "arm 2'"]
