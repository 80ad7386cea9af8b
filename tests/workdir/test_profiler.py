"""A trace of the steps that profile.steps names, and of no others."""

import io

import jax
import pytest
import tiny_jobs

from kanana_jax import config
from kanana_jax.report import progress
from kanana_jax.workdir import Run, StopRequest, Work, opened
from kanana_jax.workdir.profiler import Profiler

# 2026-11: jaxlib makes the type when stats are first read, and aborts where that warns as an error.
pytestmark = pytest.mark.filterwarnings("ignore:builtin type event_stats:DeprecationWarning")


def _traced_steps(folder):
    """The numbers of the steps that the only trace in `folder` annotates."""
    (path,) = folder.rglob("*.xplane.pb")
    trace = jax.profiler.ProfileData.from_file(str(path))
    return sorted(
        dict(event.stats)["step_num"]
        for plane in trace.planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
    )


@pytest.mark.long
def test_a_run_leaves_a_trace_of_these_steps(cfg, corpus, tmp_path):
    traced = cfg.edited(["profile.steps=3:4", "train.num_steps=6", "optimizer.name=adamw"])
    tiny_jobs.train(traced, corpus, tmp_path / "run", tiny_jobs.build(traced))
    assert _traced_steps(tmp_path / "run" / "profile") == [3, 4]


def _step(profiler, number):
    with profiler.step(number) as finished:
        finished(jax.numpy.ones(3) + number)


@pytest.mark.parametrize(
    ("steps", "done", "wanted"),
    [
        ("2:3", range(1, 6), [2, 3]),
        ("3:3", range(1, 6), [3]),
        ("1:4", range(3, 6), [3, 4]),  # a run that goes on from step 2
    ],
)
def test_the_trace_is_whole_after_its_last_step(steps, done, wanted, tmp_path):
    profiler = Profiler(tmp_path, steps)
    for number in done:
        _step(profiler, number)
    assert _traced_steps(tmp_path) == wanted


@pytest.mark.parametrize("steps", ["", "8:9"])
def test_without_steps_nothing_is_written(steps, tmp_path):
    profiler = Profiler(tmp_path / "profile", steps)
    _step(profiler, 1)
    profiler.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_a_run_that_ends_before_the_last_step_keeps_what_was_traced(cfg, tmp_path):
    """And the next run of the process can trace again."""
    for name in ("first", "second"):
        one = Run({}, cfg.edited(["profile.steps=2:9"]), tmp_path / name)
        bar = progress.Progress("", num_steps=12, file=io.StringIO())
        with (
            pytest.raises(tiny_jobs.Killed),
            opened(one, StopRequest(), bar, [Work(tokens=1)]) as folder,
        ):
            for number in (1, 2, 3):
                _step(folder.profiler, number)
            raise tiny_jobs.Killed
        assert _traced_steps(tmp_path / name / "profile") == [2, 3]


@pytest.mark.parametrize(
    "text",
    ["3", "4:3", "0:2", "-1:2", ":", "3:", ":3", "a:b", "3:4:5", "3-4", " 3:4", "1.0:2", "1:1e3"],
)
def test_a_text_that_names_no_steps_is_refused(text):
    with pytest.raises(config.ConfigError, match=r"profile\.steps must be two steps.*20:24") as no:
        config.ProfileConfig(steps=text)
    assert "\n" not in str(no.value)


@pytest.mark.parametrize("text", ["", "1:1", "20:24", "999999999:9999999999"])
def test_two_steps_in_order_are_taken(text):
    assert config.ProfileConfig(steps=text).steps == text
