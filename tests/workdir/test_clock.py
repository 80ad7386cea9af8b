"""Where the time of a run went, by a clock that tests set."""

import time

import pytest

from kanana_jax.report import metrics
from kanana_jax.workdir import clock


class Watch:
    now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def watch():
    return Watch()


def test_overheads_and_training_add_up_to_the_whole(watch):
    found = clock.Clock(watch)
    watch.now_s += 4.0
    with found.spent("saving"):
        watch.now_s += 2.0
    with found.spent("evaluating"):
        watch.now_s += 1.0
    with found.spent("saving"):
        watch.now_s += 0.5
    watch.now_s += 2.5
    told = found.metrics()
    assert told["seconds"] == 10.0
    assert (told["seconds_saving"], told["seconds_evaluating"]) == (2.5, 1.0)
    assert sum(told[clock.PREFIX + name] for name in clock.OVERHEADS) == found.overhead_s == 3.5
    assert told["goodput"] == pytest.approx(6.5 / 10.0)


def test_time_is_counted_where_the_work_failed(watch):
    found = clock.Clock(watch)
    with pytest.raises(OSError), found.spent("saving"):
        watch.now_s += 3.0
        raise OSError
    assert found.metrics()["seconds_saving"] == 3.0


def test_a_resumed_run_continues_from_what_was_recorded(watch):
    first = clock.Clock(watch)
    with first.spent("compiling"):
        watch.now_s += 6.0
    watch.now_s += 4.0
    recorded = first.metrics() | {"loss": 2.0}
    watch.now_s += 1000.0  # between the two processes
    second = clock.Clock(watch)
    second.continue_from(recorded, recorded)
    assert second.metrics() == {k: v for k, v in recorded.items() if k != "loss"}
    with second.spent("compiling"):
        watch.now_s += 10.0
    told = second.metrics()
    assert (told["seconds"], told["seconds_compiling"]) == (20.0, 16.0)
    assert told["goodput"] == pytest.approx(4.0 / 20.0)


def test_time_before_the_clock_was_made_is_part_of_the_whole(watch):
    """A run that waited 30 s for compilation and trained 10 s has spent 40 s."""
    found = clock.Clock(watch)
    found.add_earlier("compiling", 30.0)
    watch.now_s += 10.0
    told = found.metrics()
    assert (told["seconds"], told["seconds_compiling"]) == (40.0, 30.0)
    assert told["goodput"] == pytest.approx(0.25)


def test_nothing_done_is_no_goodput_and_no_error(watch):
    told = clock.Clock(watch).metrics()
    assert (told["seconds"], told["goodput"]) == (0.0, 0.0)


def test_all_that_it_records_is_timing(watch):
    assert all(map(metrics.is_timing, clock.Clock(watch).metrics()))
    assert not any(map(metrics.is_timing, ("loss", "lr", "max_logit", "heldout_bpb", "rewinds")))


def test_what_a_killed_process_did_in_vain_is_lost(watch):
    """Of a run of ten steps of 10 s that is killed five times, 4 s into the step after a save."""
    told = {}
    for _ in range(5):
        found = clock.Clock(watch)
        found.add_earlier("starting", 3.0)
        watch.now_s += 2.0  # restores
        found.started()
        found.continue_from(told, told, alive_s=told["seconds"] + 4.0 if told else 0.0)
        for _ in range(2):
            watch.now_s += 10.0
        with found.spent("saving"):
            watch.now_s += 1.0
        told = found.metrics()
        watch.now_s += 4.0
    assert told["seconds_starting"] == pytest.approx(5 * 5.0)
    assert told["seconds_lost"] == pytest.approx(4 * 4.0)
    assert told["seconds"] == pytest.approx(5 * 26.0 + 4 * 4.0)
    assert told["goodput"] == pytest.approx(5 * 20.0 / told["seconds"])


def test_steps_that_are_done_again_are_lost_the_first_time(watch):
    first = clock.Clock(watch)
    watch.now_s += 20.0
    kept = first.metrics()
    watch.now_s += 30.0
    with first.spent("evaluating"):
        watch.now_s += 5.0
    second = clock.Clock(watch)
    second.continue_from(first.metrics(), kept)
    told = second.metrics()
    assert (told["seconds"], told["seconds_lost"], told["seconds_evaluating"]) == (55.0, 30.0, 5.0)
    assert told["goodput"] == pytest.approx(20.0 / 55.0)
    third = clock.Clock(watch)
    third.continue_from(told, {})  # from the first step
    assert third.metrics()["seconds_lost"] == pytest.approx(50.0)


def test_a_file_says_how_long_a_run_has_taken(tmp_path):
    found = clock.Clock()
    with clock.kept_alive(tmp_path, found):
        time.sleep(0.6)
    assert 0.2 < clock.alive_s(tmp_path) <= found.seconds
    (tmp_path / "alive").write_text("12.")  # half of a line
    assert clock.alive_s(tmp_path) == 0.0


def test_time_between_runs_is_counted_once_and_only_inside():
    assert clock.take_uncounted() == 0.0
    with clock.counting(earlier_s=100.0):
        assert 100.0 <= clock.take_uncounted() < 110.0
        with clock.counting(earlier_s=100.0):
            assert clock.take_uncounted() < 10.0
        assert clock.take_uncounted() < 10.0
    assert clock.take_uncounted() == 0.0
    assert 0.0 < clock.process_age_s() < 1e6
