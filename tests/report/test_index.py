"""The page over several reports."""

import json

import pytest

from kanana_jax.report import index


def _report(folder, name, **more):
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("")
    summary = {"name": name, "question": "Why?", "headline": "So.", "claims": [], "picture": ""}
    (folder / "report.json").write_text(json.dumps(summary | more))


def test_every_report_has_a_link_relative_to_the_page(tmp_path):
    _report(tmp_path / "one", "first", picture="loss.png")
    _report(tmp_path / "deep/two", "second", headline="a +- b")
    text = index.write(tmp_path).read_text()
    assert 'href="one/report.html"' in text
    assert 'src="one/loss.png"' in text
    assert 'href="deep/two/report.html"' in text
    assert "a \u00b1 b" in text
    assert str(tmp_path) not in text


def test_runs_of_one_experiment_are_told_apart_by_their_folders(tmp_path):
    for name in ("stress", "again", "deep/more"):
        _report(tmp_path / name, "stress")
    text = index.write(tmp_path).read_text()
    assert all(f'<p class="note">{name}</p>' in text for name in ("again", "deep/more"))
    assert '<p class="note">stress</p>' not in text


def test_the_report_of_a_stage_is_left_to_its_pipeline(tmp_path):
    _report(tmp_path / "pipeline", "whole")
    _report(tmp_path / "pipeline/stage", "part")
    assert [one["name"] for one in index.found(tmp_path)] == ["whole"]


def test_answers_are_counted(tmp_path):
    held = [{"question": "?", "holds": holds} for holds in (True, True, False, None)]
    _report(tmp_path / "one", "first", claims=held)
    text = " ".join(index.write(tmp_path).read_text().split())
    assert "2 yes, 1 no, 1 not resolved" in text
    assert "1 report<" in text


def test_names_are_text_and_no_markup(tmp_path):
    _report(tmp_path / "one", "<script>alert(1)</script>")
    assert "<script>" not in index.write(tmp_path).read_text()


def test_a_folder_without_reports_is_refused(tmp_path, capsys):
    assert index.main([str(tmp_path)]) == 2
    assert "expected a folder with reports" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("depth", [0, 1])
def test_a_report_at_any_depth_is_found(tmp_path, depth):
    home = tmp_path.joinpath(*["in"] * depth, "run")
    _report(home, "one")
    assert [one["name"] for one in index.found(tmp_path)] == ["one"]
