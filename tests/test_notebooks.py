"""Notebooks run from their first cell to their last; those of one room are tested there."""

from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "experiments/notebooks"


@pytest.mark.long
def test_the_attention_kernel_is_that_of_plain_numpy(run_notebook):
    found = run_notebook(FOLDER / "borrow_the_attention_kernel.ipynb")
    assert found["error"] < 1e-5
    assert found["max_error"] < 1e-5
    assert found["grad_error"] < 1e-4
    assert found["packed_error"] < 1e-5
    assert found["clipped"].max() < 1.001 * found["tau"]


@pytest.mark.long
def test_a_clipped_run_is_read(tmp_path, monkeypatch, run_notebook):
    monkeypatch.chdir(tmp_path)
    found = run_notebook(FOLDER / "read_a_muonclip_run.ipynb")
    assert found["result"]["status"] == "ok"
    assert np.nansum(found["clips"]) > 0
    assert found["values"].shape == (40, 8)
    assert found["end"] < found["peak"]


@pytest.mark.long
def test_a_run_is_planned(run_notebook):
    found = run_notebook(FOLDER / "plan_a_155b_run.ipynb")
    assert 150e9 < found["num_params"] < 160e9
    assert all(one.fits for one in found["plans"])
    band = found["found"].rate_band
    assert band.low < found["truth"] < band.high


@pytest.mark.long
def test_a_base_becomes_a_model_that_greets(tmp_path, monkeypatch, run_notebook):
    monkeypatch.chdir(tmp_path)
    found = run_notebook(FOLDER / "from_pretraining_to_chat.ipynb")
    assert found["share_seen"] > 0.8
    assert found["share_unseen"] > 0.3


def test_every_notebook_is_executed_by_a_test():
    """By name, wherever it is."""
    tests = "\n".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    assert [path.name for path in FOLDER.glob("*.ipynb") if path.name not in tests] == []
