"""Which streams draw next, and what that does to listeners, in simulated time."""

import pytest

from kanana_jax.generate.streams import playback, scheduling, simulated
from kanana_jax.generate.streams.scheduling import Stream

DEVICE = simulated.Device(
    fixed_s=0.02, per_stream_s=0.0, per_prompt_s=0.0, width=8, num_rows=64, tokens_per_turn=5
)
FIRST_COME, SLACK = scheduling.POLICIES["first_come"], scheduling.POLICIES["slack"]


def numbers(streams):
    return [one.number for one in streams]


def test_slack_is_sound_handed_out_less_time_played():
    one = Stream(0, True, began_s=10.0, sound_s=3.0)
    assert one.slack(11.5) == pytest.approx(1.5)
    assert one.slack(14.0) == pytest.approx(-1.0)


def test_order_by_slack():
    """Those about to run dry, then those that wait by arrival, then those that are ahead."""
    streams = [
        Stream(0, True, began_s=0.0, sound_s=9.0),  # 4 s ahead
        Stream(1, False),
        Stream(2, True, began_s=4.0, sound_s=1.1),  # 0.1 s left
        Stream(3, True, began_s=4.0, sound_s=0.5),  # silent for 0.5 s
        Stream(4, True),
        Stream(5, True, began_s=3.0, sound_s=3.0),  # 1 s ahead
    ]
    assert numbers(SLACK(streams, 5.0)) == [3, 2, 1, 4, 5, 0]
    assert numbers(FIRST_COME(streams, 5.0)) == [0, 1, 2, 3, 4, 5]


def test_a_turn_has_room_for_few_and_rows_for_fewer():
    streams = [Stream(0, False), Stream(1, False), Stream(2, True), Stream(3, True)]
    turn = scheduling.plan(streams, 0.0, FIRST_COME, width=3, num_free=1)
    assert turn == scheduling.Turn(begins=[0], draws=[0, 2, 3])  # 1 finds no row
    turn = scheduling.plan(streams, 0.0, FIRST_COME, width=2, num_free=2)
    assert turn == scheduling.Turn(begins=[0, 1], draws=[0, 1])


def heard(policy, arrivals, tokens):
    asked = [(at_s, listener) for listener, at_s in enumerate(arrivals)]
    return simulated.simulate(DEVICE, policy, asked, tokens=(tokens, tokens))


@pytest.mark.parametrize("name", sorted(scheduling.POLICIES))
def test_all_that_was_asked_for_is_said(name):
    found = heard(scheduling.POLICIES[name], [0.0] * 9, 32)
    assert [round(one.sound_s, 6) for one in found] == [32 * 0.04] * 9


def test_by_slack_more_are_heard_early_and_nobody_waits_for_sound():
    """A burst four times as wide as a turn, on a device faster than all listeners together."""
    first, slack = (heard(policy, [0.0] * 32, 75) for policy in (FIRST_COME, SLACK))
    assert max(one.first_s for one in slack) < 0.35 * max(one.first_s for one in first)
    assert sum(one.underruns for one in slack) == 0


def test_a_late_listener_is_heard_before_those_ahead_go_on():
    arrivals = [0.0] * 8 + [0.1]
    first, slack = (heard(policy, arrivals, 75)[-1] for policy in (FIRST_COME, SLACK))
    assert slack.first_s < 0.06 < 0.2 < first.first_s


def test_a_listener_asks_again_when_it_has_heard_the_end():
    found = simulated.simulate(DEVICE, SLACK, [(0.0, 0)], tokens=(50, 50), seconds=5.0)
    assert [round(one.sound_s, 6) for one in found] == [2.0] * 3  # begun at 0, about 2 and 4 s


def test_a_device_that_is_too_slow_makes_listeners_wait():
    slow = simulated.simulate(
        simulated.Device(
            fixed_s=0.3, per_stream_s=0.0, per_prompt_s=0.0, width=1, num_rows=1, tokens_per_turn=5
        ),
        SLACK,
        [(0.0, 0)],
        tokens=(20, 20),
    )
    assert slow[0].underruns == 3
    assert slow[0].stalled_s == pytest.approx(0.3)


def test_silent_answers_are_counted_and_not_timed():
    loud, silent = playback.Playback(1.0), playback.Playback(1.0)
    loud.hear(playback.BYTES_PER_TOKEN, 1.5)
    found = playback.summary([loud.heard(), silent.heard()], 2)
    assert (found["requests"], found["silent"], found["ttfa_p95_s"]) == (2, 1, 0.5)
    with pytest.raises(ValueError, match="none of 1 answers had sound"):
        playback.summary([silent.heard()], 1)
