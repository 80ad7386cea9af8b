"""A stream as experienced by its listener, who plays it as it comes.

Playback begins with the first sound. Sound that is not there when it is due is an underrun;
playback goes on when it comes.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from kanana_jax.speech import mel

_BYTES_PER_SECOND = 2 * mel.SAMPLE_RATE
BYTES_PER_TOKEN = 2 * mel.SAMPLES_PER_TOKEN


@dataclasses.dataclass(frozen=True)
class Heard:
    """One request as experienced by its listener."""

    first_s: float  # from the request to the first byte of sound
    whole_s: float  # to the last
    sound_s: float
    first_tokens: int  # held back until there was sound: those in the first bytes
    underruns: int
    stalled_s: float  # that its listener waited for sound after the first
    largest_gap_s: float  # between bytes


@dataclasses.dataclass
class Playback:
    """Follows one request; times are seconds of one clock."""

    asked_s: float
    num_bytes: int = 0
    first_s: float | None = None
    first_bytes: int = 0
    last_s: float = 0.0
    ends_s: float = 0.0  # when what is there has been played
    underruns: int = 0
    stalled_s: float = 0.0
    largest_gap_s: float = 0.0

    def hear(self, num_bytes: int, now_s: float) -> None:
        """`num_bytes` of sound came at `now_s`."""
        if self.first_s is None:
            self.first_s, self.first_bytes, self.ends_s = now_s, num_bytes, now_s
        else:
            self.largest_gap_s = max(self.largest_gap_s, now_s - self.last_s)
            if now_s > self.ends_s:
                self.underruns += 1
                self.stalled_s += now_s - self.ends_s
                self.ends_s = now_s
        self.num_bytes += num_bytes
        self.ends_s += num_bytes / _BYTES_PER_SECOND
        self.last_s = now_s

    def heard(self) -> Heard | None:
        """None where the answer was silent: a model may end speech before it begins."""
        if self.first_s is None:
            return None
        return Heard(
            first_s=self.first_s - self.asked_s,
            whole_s=self.last_s - self.asked_s,
            sound_s=self.num_bytes / _BYTES_PER_SECOND,
            first_tokens=self.first_bytes // BYTES_PER_TOKEN,
            underruns=self.underruns,
            stalled_s=self.stalled_s,
            largest_gap_s=self.largest_gap_s,
        )


def summary(answers: Sequence[Heard | None], num_listeners: int) -> dict[str, float]:
    """The figures of `num_listeners` at once; ValueError where all answers are silent."""
    heard = [one for one in answers if one is not None]
    if not heard:
        raise ValueError(f"none of {len(answers)} answers had sound in it")
    first_s = [one.first_s for one in heard]
    return {
        "listeners": num_listeners,
        "requests": len(answers),
        "silent": len(answers) - len(heard),
        "ttfa_p50_s": float(np.percentile(first_s, 50)),
        "ttfa_p95_s": float(np.percentile(first_s, 95)),
        "rtf": float(np.mean([one.whole_s / one.sound_s for one in heard])),
        "underruns": sum(one.underruns for one in heard),
        "stalled_s": sum(one.stalled_s for one in heard),
        "largest_gap_s": max(one.largest_gap_s for one in heard),
        "sound_s": sum(one.sound_s for one in heard),
        "held_back_tokens": float(np.mean([one.first_tokens for one in heard])),
    }
