"""Claims about runs read from their folders, and about their places on the axes."""

import json
import math
import subprocess
import sys

import fabricate
import pytest

from kanana_jax.report import results
from kanana_jax.report.results import Run


def placed(tmp_path, **axes) -> Run:
    return Run(directory=tmp_path / "run", status="ok", axes=axes)


def test_a_run_is_read_back_from_its_folder(tmp_path):
    run = fabricate.run(tmp_path, arm="MuonClip", lr=0.03, seed=2, bpb=2.5, heldout_text="abc")
    assert (run.arm, run.seed, run.axis("optimizer.lr"), run.axis("width")) == (
        "MuonClip", 2, 0.03, None,
    )  # fmt: skip
    assert (run.status, run.diverged_step, run.steps, run.seconds) == ("ok", None, 40, 12.5)
    assert run.value("heldout_bpb") == 2.5
    assert math.isnan(run.value("mfu")) and math.isnan(run.value("heldout_text"))
    assert run.config["optimizer"]["name"] == "muonclip"
    assert run.heldout.text == "abc"
    assert not len(run.series("nothing").steps_N)


def test_a_diverged_run_has_no_held_out_losses(tmp_path):
    run = fabricate.run(tmp_path, diverged_step=20)
    assert (run.diverged, run.diverged_step, run.heldout) == (True, 20, None)


def test_without_run_json_the_settings_are_unknown(tmp_path):
    run = fabricate.run(tmp_path)
    (run.directory / "run.json").unlink()
    assert results.load(run.directory).config == {}


def test_an_unfinished_run_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"finished run with result.json, got .*half"):
        results.load(tmp_path / "half")


def test_a_result_that_lacks_a_part_is_refused(tmp_path):
    run = fabricate.run(tmp_path)
    path = run.directory / "result.json"
    record = json.loads(path.read_text())
    del record["axes"], record["values"]
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"lacks \['axes', 'values'\]; it has \["):
        results.load(run.directory)


def test_a_run_that_is_compared_with_none_has_its_folders_name(tmp_path):
    assert placed(tmp_path).arm == "run"
    assert placed(tmp_path, seed=1).arm == ""


def test_places_are_the_axes_beside_arm_and_seed_in_the_order_of_their_values(tmp_path):
    rows = [("b", 0.1), ("b", 0.01), ("a", 0.01)]
    runs = [
        placed(tmp_path, arm="x", seed=seed, **{"data.source": source, "optimizer.lr": lr})
        for seed in range(2)
        for source, lr in rows
    ]
    runs.append(placed(tmp_path, arm="y", seed=0, **{"optimizer.lr": 0.01}))
    assert [results.place_words(place) for place in results.places(runs)] == [
        "lr 0.01",  # without the first axis
        "source b, lr 0.01",  # words stand in the order in which they first appear
        "source b, lr 0.1",
        "source a, lr 0.01",
    ]
    assert len(results.select(runs, arm="x", place=results.places(runs)[1])) == 2


def test_axes_with_equal_last_parts_are_called_by_their_whole_path(tmp_path):
    place = placed(tmp_path, **{"data.seed_x": 1, "a.lr": 0.1, "b.lr": 0.2}).place
    assert results.place_words(place) == "seed_x 1, a.lr 0.1, b.lr 0.2"
    assert results.place_words(place, {"a.lr": "rate"}) == "seed_x 1, rate 0.1, b.lr 0.2"


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.001, "0.001"), (0.1234567891, "0.1234567891"), (3, "3"), (True, "true"), (None, "null"),
     ("a b", "a b"), ([1, 0.5], "1,0.5")],
)  # fmt: skip
def test_values_of_every_kind_can_be_a_place(tmp_path, value, words):
    runs = [placed(tmp_path, x=value), placed(tmp_path, x=value)]
    (place,) = results.places(runs)
    assert results.place_words(place) == f"x {words}"


def test_importing_the_package_loads_no_drawing_library():
    code = (
        "import sys, kanana_jax.report; "
        "heavy = {'matplotlib', 'tensorboardX', 'jinja2', 'tqdm', 'jax'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
