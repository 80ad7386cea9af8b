"""Streams in simulated time: turns cost what they are said to, and listeners play what they get."""

from kanana_jax.generate.serve.listeners import Playback
from kanana_jax.generate.streams import scheduling
from kanana_jax.generate.streams.scheduling import Stream

TOKEN_S, BYTES = 0.04, 1280  # of a token


def simulate(policy, *, num_streams, tokens, arrivals=None, width=8, per_turn=5, turn_s=0.02):
    """What each listener heard, where a turn of any width takes `turn_s`."""
    arrivals = arrivals or [0.0] * num_streams
    playing = [Playback(asked_s=at) for at in arrivals]
    streams = {n: Stream(n, False) for n in range(num_streams)}
    said = [0] * num_streams
    now_s = 0.0
    while streams:
        here = [one for n, one in streams.items() if arrivals[n] <= now_s]
        turn = scheduling.plan(here, now_s, policy, width=width, num_free=num_streams)
        now_s += turn_s
        for number in turn.draws:
            one, new = streams[number], min(per_turn, tokens - said[number])
            said[number] += new
            playing[number].hear(new * BYTES, now_s)
            streams[number] = one._replace(
                has_row=True,
                began_s=now_s if one.began_s is None else one.began_s,
                sound_s=one.sound_s + new * TOKEN_S,
            )
            if said[number] == tokens:
                del streams[number]
    return [one.heard() for one in playing]
