"""Files of sound from strangers: what is good is read, what is not is refused in one clear line."""

import io
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile

from kanana_jax.speech import audio
from kanana_jax.speech.errors import AudioError

TONE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(24_000) / 48_000)


def written(samples, rate=48_000, form="WAV", subtype=None):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def frequency(samples):
    return np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * 16_000 / len(samples)


@pytest.mark.parametrize(
    ("form", "subtype"),
    [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", None), ("OGG", None), ("MP3", None)],
)
def test_a_tone_of_any_form_is_that_tone_at_16_khz(form, subtype):
    got = audio.read(written(TONE, form=form, subtype=subtype), most_seconds=2)
    assert abs(len(got) - 8_000) < 600  # MP3 pads
    assert frequency(got) == pytest.approx(440, abs=3)
    assert np.abs(got).max() == pytest.approx(0.5, abs=0.05)


def test_channels_become_one():
    stereo = np.stack([TONE, -TONE], axis=1)
    assert np.abs(audio.read(written(stereo), most_seconds=2)).max() < 1e-3


WHOLE = written(TONE)
REFUSED = {
    "nothing": (b"", "got 0 bytes"),
    "no sound": (b"GIF89a" + bytes(200), "none or are damaged"),
    "half a header": (WHOLE[:20], "none or are damaged"),
    "a moment": (written(TONE[:100]), "at least 0.1 s of sound, got 0.002 s"),
    "an odd rate": (written(TONE, rate=47_999), "a usual sample rate"),
    "a low rate": (written(TONE, rate=100), "from 8000 to 192000 Hz, as 16000 or 44100, got 100"),
    "many channels": (written(np.zeros((9000, 9)), rate=8000), "at most 8 channels, got 9"),
    "no numbers": (written(np.full(9000, np.nan), subtype="FLOAT"), "got some that are not"),
    "too long": (written(np.zeros(8000 * 5), rate=8000), "at most 2 s of sound, got more"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_used_is_refused(name):
    content, line = REFUSED[name]
    with pytest.raises(AudioError, match=line):
        audio.read(content, most_seconds=2)


def test_a_truncated_file_is_what_is_left_of_it():
    got = audio.read(WHOLE[: len(WHOLE) // 2], most_seconds=2)
    assert len(got) == pytest.approx(4_000, abs=10)


def test_a_header_that_promises_hours_reserves_nothing():
    data = WHOLE.index(b"data") + 4
    lying = WHOLE[:data] + struct.pack("<I", 2**31 - 64) + WHOLE[data + 4 :]
    assert len(audio.read(lying, most_seconds=2)) == pytest.approx(8_000, abs=10)


def test_a_bomb_of_silence_is_read_no_further_than_allowed():
    bomb = written(np.zeros(48_000 * 200, np.int16), form="FLAC")
    assert len(bomb) < 400_000
    tracemalloc.start()
    with pytest.raises(AudioError, match="at most 2 s"):
        audio.read(bomb, most_seconds=2)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 8 * 2**20
