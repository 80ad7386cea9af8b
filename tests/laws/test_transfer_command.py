"""From run folders and tables to a rate; what stands in the way is said in one line."""

import csv
import json

import numpy as np
import pytest

from kanana_jax.laws import __main__ as command
from kanana_jax.report import metrics, results

RATES, PER_STEP = (1e-3, 2e-3, 4e-3, 8e-3), 64 * 8


def loss(rate, tokens, seed):
    best = 3e-3 * (tokens / 1e5) ** -0.2
    luck = np.random.default_rng((seed, int(rate * 1e6), int(tokens))).normal(0, 3e-4)
    return 2.0 + 0.1 * np.log(rate / best) ** 2 + luck


def write_run(folder, rate, seed, *, schedule="constant", diverged=False, arm="a", width=64):
    folder.mkdir(parents=True)
    lines = [
        {"step": step, "heldout_bpb_average": loss(rate, step * PER_STEP, seed)}
        for step in range(200, 1001, 100)
    ]
    (folder / metrics.METRICS_NAME).write_text("".join(json.dumps(one) + "\n" for one in lines))
    axes = {"arm": arm, "optimizer.lr": rate, "seed": seed}
    status = "diverged" if diverged else "ok"
    record = {"status": status, "steps": 1000, "axes": axes, "values": {}}
    (folder / results.RESULT_NAME).write_text(json.dumps(record))
    settings = {
        "model": {"hidden_size": width},
        "data": {"batch_size": 8, "seq_len": 64, "seed": seed},
        "optimizer": {"lr": rate, "schedule": {"name": schedule}},
        "train": {"average": {"every_tokens": 512}},
        "stages": [],
    }
    (folder / results.RUN_NAME).write_text(json.dumps({"config": settings}))


def write_sweep(folder, **options):
    for rate in RATES:
        for seed in range(2):
            write_run(folder / "runs" / f"lr{rate:g}-seed{seed}", rate, seed, **options)


def ask(*arguments):
    command.main(["transfer", *map(str, arguments), "--draws=100"])


def test_the_rate_of_more_tokens_is_read_off_run_folders(tmp_path, capsys):
    write_sweep(tmp_path / "work")
    write_run(tmp_path / "work" / "runs" / "lost", 1.0, 0, diverged=True)
    ask(tmp_path / "work", "--tokens=5e6", f"--out={tmp_path / 'out'}")
    shown = capsys.readouterr().out
    assert "lost diverged and is left out" in shown and "held out: 3 budgets" in shown
    record = json.loads((tmp_path / "out" / "transfer.json").read_text())
    truth = 3e-3 * 50**-0.2
    low, high = record["rate_band"]
    assert low < truth < high and high / low < 1.5
    np.testing.assert_allclose(record["target"]["rate"], truth, rtol=0.1)
    assert (tmp_path / "out" / "transfer.png").stat().st_size > 10_000


def test_a_table_says_the_same_as_the_folders(tmp_path, capsys):
    write_sweep(tmp_path / "work")
    ask(tmp_path / "work", "--tokens=5e6")
    of_folders = capsys.readouterr().out
    path = tmp_path / "table.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["tokens", "lr", "loss", "run"])
        for rate in RATES:
            for seed in range(2):
                for step in range(200, 1001, 100):
                    tokens = step * PER_STEP
                    table.writerow([tokens, rate, loss(rate, tokens, seed), seed])
    ask(path, "--tokens=5e6")
    assert capsys.readouterr().out == of_folders


def test_budgets_before_a_point_can_be_left_out(tmp_path, capsys):
    write_sweep(tmp_path / "work")
    ask(tmp_path / "work", "--tokens=5e6", "--from-tokens=250000")
    rows = capsys.readouterr().out.split("\n\n")[0].splitlines()[1:]
    assert [float(row.split()[0]) for row in rows] == [
        256000,
        307200,
        358400,
        409600,
        460800,
        512000,
    ]


def _refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        ask(*arguments)
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and shown.startswith("kanana_jax.laws: ")
    return shown


def test_runs_of_other_states_of_the_rate_are_refused(tmp_path, capsys):
    write_sweep(tmp_path / "work")
    write_run(tmp_path / "work" / "runs" / "decayed", 3e-3, 0, schedule="wsd")
    shown = _refused(capsys, tmp_path / "work", "--tokens=5e6")
    assert "decayed has optimizer.schedule.name = wsd" in shown


def test_runs_that_differ_in_more_than_the_rate_are_refused(tmp_path, capsys):
    write_sweep(tmp_path / "work")
    write_run(tmp_path / "work" / "runs" / "wide", 3e-3, 0, width=128)
    shown = _refused(capsys, tmp_path / "work", "--tokens=5e6")
    assert "model.hidden_size: 64 -> 128" in shown or "model.hidden_size: 128 -> 64" in shown


def test_an_arm_must_be_chosen(tmp_path, capsys):
    write_sweep(tmp_path / "work" / "one")
    write_sweep(tmp_path / "work" / "two", arm="b", width=128)
    assert "choose one of a, b by --arm" in _refused(capsys, tmp_path / "work", "--tokens=5e6")
    assert "--arm must be one of a, b" in _refused(
        capsys, tmp_path / "work", "--tokens=5e6", "--arm=c"
    )
    ask(tmp_path / "work", "--tokens=5e6", "--arm=b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must have the columns"),
        ("tokens,lr\n1,2\n", r"lacks ['loss']"),
        ("tokens,lr,loss\n1,2,x\n", "line 2: expected numbers"),
        ("tokens,lr,loss\n1,2,3\n1,2,4\n", "line 3: lr 2 has a loss at 1 tokens already"),
        ("tokens,lr,loss\n1,1,3\n1,2,4\n2,3,3\n", "no budget in common"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path, capsys, content, message):
    path = tmp_path / "table.csv"
    path.write_text(content)
    assert message in _refused(capsys, path, "--tokens=5e6")


def test_an_unmeasured_average_and_an_empty_folder_are_refused(tmp_path, capsys):
    write_sweep(tmp_path / "work")
    shown = _refused(capsys, tmp_path / "work", "--tokens=5e6", "--metric=heldout_bpb")
    assert "recorded no heldout_bpb" in shown
    (tmp_path / "empty").mkdir()
    assert "holds no finished run" in _refused(capsys, tmp_path / "empty", "--tokens=5e6")
    assert "--tokens must be positive" in _refused(capsys, tmp_path / "work", "--tokens=-1")
