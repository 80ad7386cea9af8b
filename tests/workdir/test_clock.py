"""Where the time of a run went, by a clock that tests set."""

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
    second.continue_from(recorded)
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
