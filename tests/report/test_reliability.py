import json
import math

import fabricate
import numpy as np
import pytest

from kanana_jax.report import canvas, metrics, reliability

NAN = math.nan


def _run(folder, arm, seed, confidence, accuracy):
    run = fabricate.run(folder / f"{arm}{seed}", arm=arm, seed=seed)
    path = run.directory / metrics.METRICS_NAME
    lines = path.read_text().splitlines()
    last = json.loads(lines[-1])
    last |= {"heldout_bin_confidence_stated": confidence, "heldout_bin_accuracy_stated": accuracy}
    path.write_text("\n".join([*lines[:-1], json.dumps(last)]) + "\n")
    return run


def test_bins_are_averaged_over_the_seeds_that_have_them(tmp_path):
    runs = [
        _run(tmp_path, "before", 0, [0.2, 0.8, NAN], [0.1, 0.5, NAN]),
        _run(tmp_path, "before", 1, [0.4, NAN, NAN], [0.3, NAN, NAN]),
    ]
    picture = reliability.Reliability(kinds=("stated",))
    sketch = picture.draw(runs, canvas.look(runs))
    assert sketch is not None
    (panel,) = sketch.figure.axes
    diagonal, curve = panel.lines
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    np.testing.assert_allclose(curve.get_xdata(), [0.3, 0.8])
    np.testing.assert_allclose(curve.get_ydata(), [0.2, 0.5])


def test_without_bins_there_is_no_picture(tmp_path):
    run = fabricate.run(tmp_path, arm="before")
    assert reliability.Reliability(kinds=("stated",)).draw([run], canvas.look([run])) is None


@pytest.mark.parametrize("kinds", [("stated", "agreement")])
def test_a_kind_without_bins_has_an_empty_panel(tmp_path, kinds):
    runs = [_run(tmp_path, "before", 0, [0.2], [0.1])]
    sketch = reliability.Reliability(kinds=kinds).draw(runs, canvas.look(runs))
    assert sketch is not None
    sizes = [len(panel.lines[1].get_xdata()) for panel in sketch.figure.axes]
    assert sizes == [1, 0]
