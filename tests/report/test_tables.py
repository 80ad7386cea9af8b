"""Claims about the table: what its cells are, and how it reads."""

import fabricate
import numpy as np

from kanana_jax.report import tables


def test_the_table_reads_as_drawn_here(tmp_path):
    runs = [
        fabricate.run(tmp_path, arm="AdamW", lr=0.03, diverged_step=20),
        fabricate.run(tmp_path, arm="MuonClip", lr=0.03, bpb=3.06),
        fabricate.run(tmp_path, arm="MuonClip", lr=0.003, bpb=3.1),
    ]
    table = tables.table(tables.summarize(runs), [tables.HELDOUT])
    assert tables.text(table).splitlines() == [
        "   lr  arm       held-out bits per byte  status",
        "-----  --------  ----------------------  -------------------",
        "0.003  MuonClip        3.1000 +- 0.0050  ok",
        "-----  --------  ----------------------  -------------------",
        " 0.03  AdamW                          -  diverged at step 20",
        " 0.03  MuonClip        3.0600 +- 0.0050  ok",
    ]


def test_every_axis_has_a_column_and_a_run_without_axes_has_none(tmp_path):
    both = [
        fabricate.run(tmp_path, arm=arm, axes={"arm": arm, "model.width": 8, "data.source": "web"})
        for arm in ("AdamW", "MuonClip")
    ]
    table = tables.table(tables.summarize(both), [], {"data.source": "text"})
    assert [column.heading for column in table.columns] == ["width", "text", "arm", "status"]
    assert table.rows == [("8", "web", "AdamW", "ok"), ("8", "web", "MuonClip", "ok")]
    alone = tables.table(tables.summarize([fabricate.run(tmp_path, axes={})]), [])
    assert tables.text(alone) == "status\n------\nok\n"


def test_numbers_are_all_of_the_results_and_stand_in_for_a_held_out_loss(tmp_path):
    runs = [fabricate.run(tmp_path, seed=seed, bpb=2.7) for seed in range(2)]
    columns = tables.value_columns(runs)
    assert [column.heading for column in columns] == ["initial loss", "final loss"]
    (cell,) = tables.summarize(runs)
    assert columns[1].words(cell) == "1.9 +- 0"
    assert tables.loss_columns(runs) == [tables.HELDOUT]
    dead = [fabricate.run(tmp_path, arm="AdamW", diverged_step=3)]
    assert [one.heading for one in tables.loss_columns(dead)] == ["initial loss", "final loss"]


def test_with_seeds_the_table_gives_their_mean_and_standard_deviation(tmp_path):
    seeds = [
        fabricate.run(tmp_path, arm="MuonClip", seed=seed, bpb=bpb)
        for seed, bpb in enumerate((2.70, 2.71, 2.72))
    ]
    seeds.append(fabricate.run(tmp_path, arm="MuonClip", seed=3, diverged_step=30))
    (cell,) = tables.summarize(seeds)
    np.testing.assert_allclose(cell.heldout_bpb, 2.71, rtol=1e-12)
    np.testing.assert_allclose(cell.heldout_error, 0.01, rtol=1e-9)
    assert cell.status == "1 of 4 diverged at step 30"


def test_the_page_marks_the_best_loss_of_each_place_and_what_diverged(tmp_path):
    runs = [
        fabricate.run(tmp_path, arm="AdamW", lr=0.03, diverged_step=20),
        fabricate.run(tmp_path, arm="Muon NS", lr=0.03, bpb=3.1),
        fabricate.run(tmp_path, arm="MuonClip", lr=0.03, bpb=3.0),
    ]
    table = tables.table(tables.summarize(runs), [tables.HELDOUT])
    colors = {"AdamW": "red", "Muon NS": "green", "MuonClip": "blue"}
    page = tables.for_page(table, colors)
    assert page["headings"][1] == ("arm", "word")
    assert [row["first"] for row in page["rows"]] == [True, False, False]
    assert [row["cells"][1] for row in page["rows"]] == [
        (arm, "word", color) for arm, color in colors.items()
    ]
    assert [row["cells"][2][1] for row in page["rows"]] == ["", "", "best"]
    assert [row["cells"][3][1] for row in page["rows"]] == ["word bad", "word", "word"]
