"""Finished runs of several folders in one report."""

import dataclasses

import pytest
from fabricate import run

from kanana_jax import compare


@pytest.fixture
def two(tmp_path):
    """Two arms of three seeds that differ in optimizer and held-out loss."""
    for arm, bpb in (("Muon PE", 2.7), ("MuonClip", 2.5)):
        for seed in (0, 1, 2):
            run(tmp_path / arm.split()[-1], arm=arm, seed=seed, bpb=bpb, heldout_text="one")
    return tmp_path


@pytest.mark.long
def test_folders_are_arms_and_their_settings_are_set_apart(two, capsys):
    given = [f"before={two / 'PE'}", f"after={two / 'MuonClip'}", f"--out={two / 'out'}"]
    assert compare.main(given) == 0
    shown = capsys.readouterr().out
    assert "before" in shown
    assert "Is after's held-out loss as good as before's" in shown
    assert "optimizer.name: before muon, after muonclip" in shown
    page = (two / "out/report.html").read_text()
    assert "Settings that differ" in page
    assert (two / "out/max_logit.png").exists()


def test_where_data_are_cached_is_no_difference(two):
    runs = [*compare.runs_of(str(two / "PE")), *compare.runs_of(str(two / "MuonClip"))]
    found = compare.differences(runs)
    moved = [
        dataclasses.replace(one, config={**one.config, "data": {"cache_dir": one.arm}})
        for one in runs
    ]
    assert compare.differences(moved) == found


def test_seeds_of_one_folder_are_one_arm(two):
    runs = compare.runs_of(str(two / "PE"))
    assert {one.arm for one in runs} == {"PE"}
    assert len({one.seed for one in runs}) == 3


def test_a_folder_of_two_arms_keeps_them_apart(two):
    assert {one.arm for one in compare.runs_of(f"all={two}")} == {"all: Muon PE", "all: MuonClip"}


def test_a_run_without_its_series_is_refused(two, capsys):
    for path in two.rglob("metrics.jsonl"):
        path.unlink()
    assert compare.main([str(two / "PE"), f"--out={two / 'out'}"]) == 2
    assert "metrics.jsonl, the series of a run, got no such file" in capsys.readouterr().err


def test_a_folder_without_runs_is_refused_before_anything_is_written(tmp_path, capsys):
    assert compare.main([str(tmp_path / "none"), f"--out={tmp_path / 'out'}"]) == 2
    shown = capsys.readouterr().err
    assert "expected a finished run" in shown
    assert "none" in shown
    assert list(tmp_path.iterdir()) == []
