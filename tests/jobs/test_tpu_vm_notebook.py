"""The notebook for TPU VMs runs from its first cell to its last, here on CPU devices."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "experiments/notebooks/kanana_on_tpu_vm.ipynb"


@pytest.mark.long
def test_notebook_trains_reports_and_resumes(tmp_path, monkeypatch, restored_cache, run_notebook):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    variables = run_notebook(NOTEBOOK)
    assert len(variables["figures"]) == len(plt.get_fignums()) > 0
    assert dict(variables["mesh"].shape)["fsdp"] == len(variables["devices"])
    assert "do not multiply to the 8 devices" in variables["refusal"]
    assert "libtpu comes with" in variables["planned"] or "HBM" in variables["planned"]
    losses, resumed = variables["losses"], variables["resumed"]
    assert (losses.steps_N[-1], resumed.steps_N[-1]) == (30, 40)
    np.testing.assert_array_equal(resumed.values_N[:30], losses.values_N)
    assert resumed.values_N[-1] < losses.values_N[0]
    workdir = tmp_path / variables["workdir"]
    assert len((workdir / "sessions.jsonl").read_text().splitlines()) == 2
    assert (workdir / "report.html").exists()
