"""Claims about metrics.jsonl: exact, append-only, and whole after a kill."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanana_jax.report import metrics


def _write(directory, records: dict[int, dict]) -> None:
    with metrics.MetricsWriter(directory) as writer:
        for step, values in records.items():
            writer.write(step, values)


def _steps(directory) -> list[int]:
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.floats(width=64), min_size=1, max_size=20))
def test_every_float_reads_back_bit_for_bit(tmp_path_factory, values):
    directory = tmp_path_factory.mktemp("run")
    lines = [json.dumps({"step": i, "x": metrics._plain("x", v)}) for i, v in enumerate(values)]
    (directory / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    read = metrics.read_metrics(directory / "metrics.jsonl")["x"].values_N
    # NaN has many bit patterns and one spelling, so NaNs are compared as NaNs.
    is_nan = np.isnan(values)
    np.testing.assert_array_equal(np.isnan(read), is_nan)
    np.testing.assert_array_equal(
        read[~is_nan].view(np.int64), np.array(values)[~is_nan].view(np.int64)
    )


def test_numbers_of_every_kind_round_trip_through_the_writer(tmp_path):
    matrix_LH = np.array([[1.1, math.nan], [-math.inf, math.inf]], np.float32)
    values = {
        "python": 0.1,
        "float32": np.float32(0.1),
        "bfloat16": jnp.bfloat16(0.1),
        "jax": jnp.float32(1) / 3,
        "count": np.int32(7),
        "flag": True,
        "matrix": matrix_LH,
    }
    _write(tmp_path, {1: values})
    read = metrics.read_metrics(tmp_path / "metrics.jsonl")
    for key, value in values.items():
        expected = np.asarray(value).astype(np.float64)
        np.testing.assert_array_equal(read[key].values_N[0].astype(np.float64), expected)
    assert read["count"].values_N.dtype == np.int64


def test_a_key_has_the_steps_at_which_it_was_recorded(tmp_path):
    _write(tmp_path, {1: {"loss": 3.0}, 2: {"loss": 2.0, "heldout": 9.0}, 5: {"heldout": 8.0}})
    read = metrics.read_metrics(tmp_path / "metrics.jsonl")
    assert set(read) == {"loss", "heldout"}
    np.testing.assert_array_equal(read["loss"].steps_N, [1, 2])
    np.testing.assert_array_equal(read["heldout"].steps_N, [2, 5])
    np.testing.assert_array_equal(read["heldout"].values_N, [9.0, 8.0])


def test_a_line_is_on_disk_as_soon_as_it_is_written(tmp_path):
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.write(1, {"loss": 3.0})
        assert _steps(tmp_path) == [1]


def test_truncation_keeps_the_lines_up_to_the_step_and_lets_training_continue(tmp_path):
    _write(tmp_path, {step: {"loss": float(step)} for step in range(1, 8)})
    with metrics.MetricsWriter(tmp_path) as writer:
        assert writer.last_step == 7
        writer.truncate_after(4)
        assert writer.last_step == 4
        writer.write(5, {"loss": 50.0})
    assert _steps(tmp_path) == [1, 2, 3, 4, 5]
    values_N = metrics.read_metrics(tmp_path / "metrics.jsonl")["loss"].values_N
    np.testing.assert_array_equal(values_N, [1, 2, 3, 4, 50])


def test_truncation_before_the_first_step_empties_the_file(tmp_path):
    _write(tmp_path, {step: {"loss": 1.0} for step in range(1, 4)})
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.truncate_after(0)
        assert writer.last_step is None
    assert _steps(tmp_path) == []


@pytest.mark.parametrize("num_bytes", [1, 10, 25, 36])
def test_a_torn_last_line_is_not_read_and_not_continued(tmp_path, num_bytes):
    _write(tmp_path, {1: {"loss": 3.0}, 2: {"loss": 2.0}})
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    torn = '{"step": 3, "loss": 1.25, "max": 2.0}'
    path.write_text(whole + torn[:num_bytes])
    np.testing.assert_array_equal(metrics.read_metrics(path)["loss"].steps_N, [1, 2])
    _write(tmp_path, {3: {"loss": 1.5}})
    assert path.read_text() == whole + '{"step": 3, "loss": 1.5}\n'


def test_lines_wait_in_memory_while_the_disk_is_full(tmp_path, monkeypatch):
    """The full disk takes part of a line each time; once there is space, all lines are whole."""
    writer = metrics.MetricsWriter(tmp_path)
    writer.write(1, {"loss": 3.0})
    disk = _FullDisk(writer._file)
    monkeypatch.setattr(writer, "_file", disk)
    for step in (2, 3, 4):
        writer.write(step, {"loss": 3.0})
        assert isinstance(writer.error, OSError)
        assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1
    disk.is_full = False
    writer.write(5, {"loss": 3.0})
    assert writer.error is None
    writer.close()
    assert _steps(tmp_path) == [1, 2, 3, 4, 5]


def test_closing_over_lines_that_no_disk_took_is_an_error(tmp_path, monkeypatch):
    writer = metrics.MetricsWriter(tmp_path)
    monkeypatch.setattr(writer, "_file", _FullDisk(writer._file))
    writer.write(1, {"loss": 3.0})
    with pytest.raises(OSError, match="No space left"):
        writer.close()


class _FullDisk:
    def __init__(self, file):
        self.file, self.is_full = file, True

    def write(self, line):
        if not self.is_full:
            return self.file.write(line)
        return self.file.write(line[:10])

    def fileno(self):
        return self.file.fileno()

    def close(self):
        self.file.close()


def test_a_broken_line_inside_the_file_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "lo\n{"step": 3, "loss": 2.0}\n')
    with pytest.raises(ValueError, match="line 2 of"):
        metrics.read_metrics(path)


def test_a_repeated_step_is_refused(tmp_path):
    _write(tmp_path, {1: {"loss": 3.0}, 2: {"loss": 2.0}})
    with (
        metrics.MetricsWriter(tmp_path) as writer,
        pytest.raises(ValueError, match="steps must increase: got step 2 after step 2"),
    ):
        writer.write(2, {"loss": 2.0})


def test_values_that_are_not_numbers_are_refused(tmp_path):
    with (
        metrics.MetricsWriter(tmp_path) as writer,
        pytest.raises(ValueError, match="numbers or arrays of numbers, got 'low' for 'loss'"),
    ):
        writer.write(1, {"loss": "low"})
    assert _steps(tmp_path) == []


def test_arrays_that_change_shape_are_an_error_that_names_the_key(tmp_path):
    _write(tmp_path, {1: {"max_logits": np.zeros((2, 2))}, 2: {"max_logits": np.zeros((2, 3))}})
    with pytest.raises(ValueError, match=r"'max_logits' .* one shape"):
        metrics.read_metrics(tmp_path / "metrics.jsonl")


def test_tensorboard_holds_the_scalars_and_hides_what_a_resumed_run_repeats(tmp_path):
    values = {"loss": math.nan, "max_logits": np.zeros((2, 2))}
    _write(tmp_path, {1: values, 2: values})
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.truncate_after(1)
        writer.write(2, {"loss": 1.5})
    first, second = (next((tmp_path / "tensorboard").glob(f"*.from{step}")) for step in (1, 2))
    events = _events(first)
    assert [event.step for event in events if event.summary.value] == [1, 2]
    tags = {value.tag for event in events for value in event.summary.value}
    assert tags == {"loss"}
    starts = [event.step for event in _events(second) if event.HasField("session_log")]
    assert starts == [2]


def _events(path):
    from tensorboardX.proto.event_pb2 import Event

    data, events, position = path.read_bytes(), [], 0
    while position < len(data):
        # A record is its length (8 bytes), a checksum (4), the event, and a checksum (4).
        size = int.from_bytes(data[position : position + 8], "little")
        events.append(Event.FromString(data[position + 12 : position + 12 + size]))
        position += 16 + size
    return events


def test_the_records_of_a_step_and_the_newest_are_read_without_the_others(tmp_path):
    path = tmp_path / metrics.METRICS_NAME
    assert metrics.read_records(path, 3) == ({}, {})
    path.write_text('{"step": 1, "a": 5}\n{"step": 3, "a": 6}\n{"step": 4, "a": 7}\n{"step": 5')
    assert metrics.read_records(path, 3) == ({"step": 3, "a": 6}, {"step": 4, "a": 7})
    assert metrics.read_records(path, 2)[0] == {}
