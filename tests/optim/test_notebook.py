"""The notebook that borrows the optimizer runs from its first cell to its last."""

from pathlib import Path

import numpy as np
import pytest

NOTEBOOK = Path(__file__).parents[2] / "experiments/notebooks/borrow_the_optimizer.ipynb"


@pytest.mark.long
def test_notebook_runs_and_the_clip_holds(run_notebook):
    variables = run_notebook(NOTEBOOK)
    # The clip acts one step late, hence the room above tau.
    assert max(variables["clip_peaks"]) < 2 * variables["tau"]
    assert max(variables["muon_peaks"]) > 2 * variables["tau"]
    assert np.mean(variables["clip_losses"][-10:]) < variables["clip_losses"][0]
    assert np.sum(variables["report"]["num_clips"]) > 0
