"""The report of jobs in turn names its stages, and shows what tells them apart."""

import dataclasses

import fabricate
import pytest

from kanana_jax.report import canvas, results, stages


@pytest.fixture
def ran(tmp_path):
    def make(arm, seed=0, name="mine", start="", **values):
        run = fabricate.run(tmp_path, arm=arm, seed=seed, axes={"arm": arm, "seed": seed})
        settings = {**run.config, "name": name, "train": {"init_from": start}}
        return dataclasses.replace(run, config=settings, values=run.values | values)

    return make


def test_a_stage_gives_its_name_to_runs_and_keeps_that_of_arms(ran):
    alone = dataclasses.replace(ran("x"), axes={})
    assert stages.named(alone, "base").arm == "base"
    assert stages.named(ran("mine", seed=2), "base").axes == {"arm": "base", "seed": 2}
    assert stages.named(ran("20% replay"), "mid").arm == "mid: 20% replay"
    swept = dataclasses.replace(ran("a"), axes={"arm": "a", "optimizer.lr": 0.1, "seed": 0})
    assert stages.named(swept, "mid").arm == "mid: a, lr 0.1"


def test_what_is_alike_in_all_stages_is_in_no_column_and_no_panel(ran, tmp_path):
    base = stages.named(ran("mine", heldout_accuracy=0.2, heldout_same=1.0), "base")
    start = str(tmp_path / "base" / "model" / "seed0")
    mid = stages.named(ran("a", start=start, heldout_accuracy=0.7, heldout_same=1.0), "mid")
    words = stages.write([base, mid], fabricate.about(), tmp_path / "report.html")
    heading = words.splitlines()[0]
    assert "accuracy" in heading and "same" not in heading
    page = (tmp_path / "report.html").read_text()
    assert "mid: a: one seed of 40 steps, from base;" in page
    sketch = stages.Gains().draw([base, mid], canvas.look([base, mid]))
    titles = [axes.get_title(loc="left") for axes in sketch.figure.axes if axes.get_visible()]
    assert "accuracy" in titles and "same" not in titles


def test_a_single_stage_has_all_columns_and_no_picture(ran, tmp_path):
    only = stages.named(ran("mine", heldout_accuracy=0.2), "base")
    assert "accuracy" in stages.write([only], fabricate.about(), tmp_path / "report.html")
    assert not (tmp_path / "stages.png").exists()
    assert results.arms([only]) == ["base"]


def test_what_is_shown_can_be_chosen(ran, tmp_path):
    base = stages.named(ran("mine", heldout_accuracy=0.2, heldout_speed=1.0), "base")
    mid = stages.named(ran("a", heldout_accuracy=0.7, heldout_speed=2.0), "mid")
    path = tmp_path / "report.html"
    keys, said = ["heldout_speed"], [("What mid says", "one line\nanother")]
    words = stages.write([base, mid], fabricate.about(), path, keys=keys, sections=said)
    assert words.splitlines()[0].split() == ["arm", "speed", "status"]
    page = path.read_text()
    assert "What mid says" in page and "one line\nanother" in page
    sketch = stages.Gains(keys=("heldout_speed",)).draw([base, mid], canvas.look([base, mid]))
    titles = [axes.get_title(loc="left") for axes in sketch.figure.axes if axes.get_visible()]
    assert titles == ["speed"]
