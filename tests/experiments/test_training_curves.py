"""Claims about the pictures and columns that training jobs share."""

import json

import fabricate
import numpy as np

from kanana_jax.jobs import curves
from kanana_jax.report import canvas, results, single


def names_drawn(run, path):
    single.write_run_report(run, fabricate.about(), path, curves=curves.TRAINING)
    return {one.stem for one in path.parent.glob("*.png")}


def test_one_run_gets_every_picture_of_what_it_recorded(tmp_path):
    every = {one.name for one in curves.TRAINING}
    run = fabricate.run(tmp_path, arm="MuonClip", axes={}, num_sources=2)
    assert names_drawn(run, tmp_path / "a" / "r.html") == every
    of_sources = {"specialisation", "specialisation_depth", "source_load"}
    run = fabricate.run(tmp_path, arm="Muon NS", axes={})
    assert names_drawn(run, tmp_path / "b" / "r.html") == every - {"clipping", *of_sources}


def test_pictures_of_metrics_that_no_run_recorded_are_left_out(tmp_path):
    run = fabricate.run(tmp_path, arm="Muon NS")
    path = run.directory / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [{key: line[key] for key in ("step", "loss", "max_logit")} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in kept))
    assert names_drawn(results.load(run.directory), tmp_path / "report" / "r.html") == {
        "loss",
        "max_logit",
    }


def test_each_threshold_of_a_comparison_is_a_dashed_line(tmp_path):
    runs = [fabricate.run(tmp_path, arm=f"tau {tau:g}", tau=tau) for tau in (100.0, 30.0)]
    sketch = curves.MAX_LOGIT.draw(runs, canvas.look(runs))
    (axes,) = sketch.figure.axes
    dashed = [float(line.get_ydata()[0]) for line in axes.lines if line.get_linestyle() == "--"]
    assert dashed == [30.0, 100.0]
    texts = [text.get_text() for one in sketch.figure.legends for text in one.get_texts()]
    assert texts == ["tau 100", "tau 30", "tau = 30, 100"]


def test_peak_and_tail_are_those_of_the_series(tmp_path):
    run = fabricate.run(tmp_path, peak=90.0, tail=33.0)
    np.testing.assert_allclose(curves.peak_max_logit(run), 90.0, rtol=1e-12)
    np.testing.assert_allclose(curves.tail_max_logit(run), 33.0, rtol=1e-12)


def test_the_columns_hold_max_logits_over_tau_and_what_was_clipped(tmp_path):
    run = fabricate.run(tmp_path, arm="MuonClip", peak=60.0, tail=33.0, axes={})
    text = single.write_run_report(
        run,
        fabricate.about(),
        tmp_path / "report.html",
        curves=(),
        headline=curves.headline(run),
        columns=curves.COLUMNS,
    )
    events = curves.clip_events(run)
    assert text.split()[-6:] == ["0.0050", "60.0", "2.00", "1.10", str(events), "ok"]
    assert curves.headline(run) == (
        "After 40 steps: 2.7000 +- 0.0050 held-out bits per byte; the max attention logit peaked "
        f"at 2.00 x tau, with {events} clip events."
    )
    assert curves.headline(fabricate.run(tmp_path, diverged_step=7, axes={})) == (
        "The run diverged at step 7."
    )
