"""What is recorded of steps beside what they say themselves: speeds, and time that was lost."""

import contextlib
import io
import json

import pytest

from kanana_jax import config
from kanana_jax.report import metrics, progress
from kanana_jax.workdir import Work, clock, events, recorder


class Watch:
    now_s = 0.0

    def __call__(self):
        return self.now_s


class Lab:
    """A recorder whose steps take as long as a test says."""

    def __init__(self, folder, work, **guard):
        self.watch, self.folder = Watch(), folder
        self.clock = clock.Clock(self.watch)
        self.writer = metrics.MetricsWriter(folder)
        self.shown = io.StringIO()
        bar = progress.Progress("run", num_steps=40, file=self.shown)
        log = events.Events(folder)
        guard = config.GuardConfig(**guard)
        self.recorder = recorder.Recorder(guard, self.writer, bar, log, self.clock, [work])

    def step(self, number, seconds=2.0, **entry):
        self.watch.now_s += seconds
        plain = {"loss": 1.0, "grad_rms": 1.0, "max_logit": 3.0, "consecutive_skips": 0}
        self.recorder.push(number, plain | entry)
        self.recorder.flush()

    def records(self):
        lines = (self.folder / metrics.METRICS_NAME).read_text().splitlines()
        return [json.loads(line) for line in lines]

    def events(self):
        path = self.folder / events.EVENTS_NAME
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line)["kind"] for line in lines]


@pytest.fixture
def made(tmp_path):
    """made(work, **guard) -> a Lab whose files are closed when the test is done."""
    with contextlib.ExitStack() as stack:

        def make(work, **guard):
            lab = Lab(tmp_path, work, **guard)
            stack.callback(lab.writer.close)
            return lab

        yield make


def test_speeds_are_those_of_the_work_that_a_step_does(made):
    work = Work(tokens=4096, flops=6e12, peak_flops_per_second=1e13)
    lab = made(work)
    for number in range(1, 6):
        lab.step(number, seconds=2.0)
    first, *rest = lab.records()
    assert not {"tokens_per_second", "model_tflops_per_second", "mfu"} & first.keys()
    for one in rest:
        assert one["tokens_per_second"] == pytest.approx(2048.0)
        assert one["model_tflops_per_second"] == pytest.approx(3.0)
        assert one["mfu"] == pytest.approx(0.3)
    assert "MFU 30.0%" in lab.shown.getvalue()
    recorded = {name for one in lab.records() for name in one}
    timed = {name for name in recorded if metrics.is_timing(name)}
    assert recorded - timed == {"step", "loss", "grad_rms", "max_logit", "consecutive_skips"}


@pytest.mark.parametrize(
    ("work", "wanted"),
    [
        (Work(tokens=8), {"tokens_per_second"}),
        (Work(tokens=8, flops=6e12), {"tokens_per_second", "model_tflops_per_second"}),
    ],
)
def test_there_is_no_mfu_where_the_peak_is_not_known(made, work, wanted):
    lab = made(work)
    for number in range(1, 4):
        lab.step(number)
    speeds = {"tokens_per_second", "model_tflops_per_second", "mfu"}
    assert speeds & lab.records()[-1].keys() == wanted
    assert "MFU" not in lab.shown.getvalue()


def test_time_that_is_no_training_slows_no_step(made):
    lab = made(Work(tokens=100))
    lab.step(1)
    with lab.clock.spent("evaluating"):
        lab.watch.now_s += 50.0
    lab.step(2)
    assert lab.records()[-1]["tokens_per_second"] == pytest.approx(50.0)


def test_a_step_that_changed_nothing_counts_as_lost(made):
    lab = made(Work(tokens=100))
    for number in range(1, 4):
        lab.step(number)
    lab.step(4, consecutive_skips=1)
    last = lab.records()[-1]
    assert last["seconds_skipped"] == pytest.approx(2.0)
    assert last["goodput"] == pytest.approx(6.0 / 8.0)
    assert lab.events() == ["step_skipped"]


def test_steps_that_are_undone_count_as_lost_once(made):
    """Back from step 8 to step 4: two good steps and the two that were skipped before."""
    lab = made(Work(tokens=100), max_skips=2)
    for number in range(1, 7):
        lab.step(number)
    lab.step(7, consecutive_skips=1)
    lab.step(8, consecutive_skips=2)
    assert lab.recorder.trouble_step == 8
    lab.recorder.restart(num_undone=4)
    assert lab.clock.overhead_s == pytest.approx(8.0)
    assert lab.recorder.trouble_step is None


def test_decisions_do_not_depend_on_when_records_are_fetched(made):
    """Records wait; the step that ends the run is the same, and none after it is written."""
    lab = made(Work(tokens=100), max_skips=2)
    plain = {"loss": 1.0, "grad_rms": 1.0, "max_logit": 3.0}
    for number in range(1, 20):
        skips = max(0, min(number - 5, 2))
        lab.recorder.push(number, plain | {"consecutive_skips": skips})
    assert lab.recorder.trouble_step == 7
    assert lab.records()[-1]["step"] == 7
    assert not lab.recorder.may_save(is_last=False)
