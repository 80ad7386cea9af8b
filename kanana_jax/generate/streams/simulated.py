"""Listeners of a device that is modelled by its costs alone, in simulated time.

    a turn costs    fixed + per_stream * streams that draw + per_prompt * prompts read,  seconds
    a listener      asks, plays what comes, and asks again when it has heard the end

The schedule is that of `scheduling.plan`, as on a device; nothing is drawn.
"""

import dataclasses
import heapq
import random
from collections.abc import Sequence

from kanana_jax.generate.streams import scheduling
from kanana_jax.generate.streams.playback import BYTES_PER_TOKEN, Heard, Playback
from kanana_jax.generate.streams.scheduling import Policy, Stream
from kanana_jax.speech import mel

_SECONDS_PER_TOKEN = mel.SAMPLES_PER_TOKEN / mel.SAMPLE_RATE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """What a turn costs and how many streams it has room for."""

    fixed_s: float
    per_stream_s: float
    per_prompt_s: float
    width: int
    num_rows: int
    tokens_per_turn: int


@dataclasses.dataclass
class _Said:
    stream: Stream
    left: int  # tokens
    playback: Playback
    listener: int
    place: int  # among the answers to its listener


def simulate(
    device: Device,
    policy: Policy,
    asked: Sequence[tuple[float, int]],
    *,
    tokens: tuple[int, int] = (50, 150),
    seconds: float = 0.0,
    seed: int = 0,
) -> list[Heard]:
    """What was heard, in the order of requests.

    `asked` are the first requests: when, and by which listener. Each later one begins when its
    listener has heard the last to its end, if that is before `seconds`. The n-th answer to a
    listener has a random length within `tokens`, the same for every policy.
    """
    waiting = [(at_s, listener, 0) for at_s, listener in asked]
    heapq.heapify(waiting)
    streams: dict[int, _Said] = {}
    num_asked, now_s = 0, 0.0
    found: dict[int, Heard] = {}
    while waiting or streams:
        if not streams:
            now_s = max(now_s, waiting[0][0])
        while waiting and waiting[0][0] <= now_s:
            at_s, listener, place = heapq.heappop(waiting)
            length = random.Random(f"{seed} {listener} {place}").randint(*tokens)
            stream = Stream(num_asked, has_row=False)
            streams[num_asked] = _Said(stream, length, Playback(at_s), listener, place)
            num_asked += 1
        held = sum(one.stream.has_row for one in streams.values())
        turn = scheduling.plan(
            [one.stream for one in streams.values()],
            now_s,
            policy,
            width=device.width,
            num_free=device.num_rows - held,
        )
        now_s += device.fixed_s
        now_s += device.per_stream_s * len(turn.draws) + device.per_prompt_s * len(turn.begins)
        for number in turn.draws:
            one = streams[number]
            new = min(device.tokens_per_turn, one.left)
            one.left -= new
            one.playback.hear(new * BYTES_PER_TOKEN, now_s)
            began_s = one.stream.began_s
            one.stream = one.stream._replace(
                has_row=True,
                began_s=now_s if began_s is None else began_s,
                sound_s=one.stream.sound_s + new * _SECONDS_PER_TOKEN,
            )
            if not one.left:
                heard = one.playback.heard()
                assert heard is not None  # an answer is one token or more
                found[number] = heard
                del streams[number]
                if one.playback.ends_s < seconds:
                    again = one.playback.ends_s, one.listener, one.place + 1
                    heapq.heappush(waiting, again)
    return [found[number] for number in sorted(found)]
