"""Claims about the progress bar, with a clock that the test moves."""

import io
import math

import pytest

from kanana_jax.report import progress


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _lines(file: io.StringIO) -> list[str]:
    return file.getvalue().splitlines()


def test_without_a_terminal_a_line_comes_every_twentieth_of_the_run():
    clock, file = Clock(), io.StringIO()
    with progress.Progress("run", num_steps=100, file=file, clock=clock) as bar:
        for step in range(1, 101):
            clock.now_s += 0.01
            bar.update(step, loss=2.0, max_logit=10.0)
    assert len(_lines(file)) == 20
    assert _lines(file)[-1].startswith("run  100%  100/100, ETA 00:00")


def test_without_a_terminal_a_slow_run_prints_every_ten_seconds():
    clock, file = Clock(), io.StringIO()
    bar = progress.Progress("run", num_steps=100_000, file=file, clock=clock)
    for step in range(1, 61):
        clock.now_s += 1.0
        bar.update(step)
    assert len(_lines(file)) == 6


def test_a_line_shows_eta_pace_loss_and_max_logit():
    clock, file = Clock(), io.StringIO()
    bar = progress.Progress(
        "MuonClip lr 0.01", num_steps=100, tokens_per_step=2048, file=file, clock=clock
    )
    clock.now_s = 10.0
    bar.update(20, loss=1.9321, max_logit=41.04)
    assert _lines(file) == [
        "MuonClip lr 0.01   20%  20/100, ETA 00:40, 4.1k tokens/s, loss 1.932, max logit 41.0"
    ]


def test_steps_of_an_earlier_process_do_not_count_towards_the_pace():
    clock, file = Clock(), io.StringIO()
    bar = progress.Progress("run", num_steps=100, file=file, clock=clock)
    bar.start(90)
    clock.now_s = 10.0
    bar.update(95)
    assert "95/100, ETA 00:10" in _lines(file)[0]


def test_a_sweep_says_which_run_it_is_and_when_all_are_done():
    clock, file = Clock(), io.StringIO()
    sweep = progress.Sweep(num_runs=3, file=file, clock=clock)
    for index, seconds in ((1, 500.0), (2, 20.0)):
        with sweep.run(index, "arm", num_steps=10) as bar:
            clock.now_s += seconds
            bar.update(10)
    # Ten steps took 20 s once compilation was over, and ten are left.
    assert _lines(file)[-1].startswith("run 2/3  arm  100%  10/10, ETA 00:00, all 00:20")


def test_a_terminal_gets_one_bar_with_the_same_numbers():
    clock, file = Clock(), Terminal()
    with progress.Progress("run", num_steps=10, file=file, clock=clock) as bar:
        bar.start(0)
        clock.now_s = 5.0
        bar.update(10, loss=1.5, max_logit=30.0)
    assert "\r" in file.getvalue()
    assert "10/10" in file.getvalue()
    assert "ETA 00:00, loss 1.500, max logit 30.0" in file.getvalue()


def test_a_run_that_stops_early_still_prints_its_last_state():
    clock, file = Clock(), io.StringIO()
    with progress.Progress("run", num_steps=1000, file=file, clock=clock) as bar:
        bar.update(3, loss=math.nan)
    assert "3/1000" in _lines(file)[0]
    assert "loss nan" in _lines(file)[0]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "00:00"), (59.6, "01:00"), (3723.0, "1:02:03"), (math.nan, "?")]
)
def test_durations_read_as_clocks(seconds, text):
    assert progress.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(7.0, "7"), (999.9, "1k"), (54_200.0, "54.2k"), (1.3e6, "1.3M"), (2e9, "2G")],
)
def test_quantities_have_three_digits_and_a_unit(value, text):
    assert progress.quantity(value) == text


def test_a_run_in_stages_names_them_and_counts_tokens_towards_its_end():
    clock, file = Clock(), io.StringIO()
    stages = [progress.Stage("broad", 10, 100), progress.Stage("best", 10, 300)]
    bar = progress.Progress("run", num_steps=20, stages=stages, file=file, clock=clock)
    clock.now_s = 10.0
    bar.update(10, loss=1.0, max_logit=1.0)
    clock.now_s = 25.0
    bar.update(15, loss=1.0, max_logit=1.0)
    first, second = _lines(file)
    assert "10/20, stage 1/2 broad, ETA 00:30, 100 tokens/s" in first
    assert "15/20, stage 2/2 best, ETA 00:15, 100 tokens/s" in second
