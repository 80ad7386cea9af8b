"""What signals ask for, without a run."""

import signal

import pytest

from kanana_jax.workdir import signals


@pytest.fixture(autouse=True)
def _hangups_end_a_process():
    """Also where the tests themselves were started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_sets_the_wish_to_stop_while_a_step_is_held(number, capsys):
    with signals.stop_request() as stop, stop.holding():
        signal.raise_signal(number)
        assert stop.is_set
    assert number.name in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_with_nothing_to_finish_stops_at_once(number):
    with pytest.raises(signals.Stopped), signals.stop_request():
        signal.raise_signal(number)


def test_a_second_hangup_does_not_end_the_save(monkeypatch):
    ended = []
    monkeypatch.setattr(signals.os, "_exit", ended.append)
    with signals.stop_request() as stop, stop.holding():
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert ended == []
        signal.raise_signal(signal.SIGTERM)
        assert ended == [128 + signal.SIGTERM]


def test_nohup_keeps_its_meaning():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.stop_request() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.is_set
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_after_a_hangup_nothing_is_written_to_the_terminal(monkeypatch):
    moved = []
    monkeypatch.setattr(signals, "_is_terminal", lambda number: number == 2)
    monkeypatch.setattr(signals.os, "dup2", lambda source, target: moved.append(target))
    with signals.stop_request() as stop, stop.holding():
        signal.raise_signal(signal.SIGHUP)
    assert moved == [2]
