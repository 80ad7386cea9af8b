"""Conversations with sounds: their rows, what is left out, and what is refused."""

import base64
import dataclasses
import io
import json

import numpy as np
import pytest

from kanana_jax import config
from kanana_jax.data.errors import DataError
from kanana_jax.jobs import pretrain, sound_chats
from kanana_jax.model import presets
from kanana_jax.speech import chats, mel

soundfile = pytest.importorskip("soundfile")

SHAPE = config.AudioConfig(hidden_size=8, num_layers=1, num_heads=1, intermediate_size=8)
SECONDS = (0.4, 0.75, 0.61)
ROOM = 80


def samples(number):
    count = int(SECONDS[number % len(SECONDS)] * mel.SAMPLE_RATE)
    return 0.3 * np.random.default_rng(number).standard_normal(count).clip(-1, 1)


def content(number, form="FLAC"):
    file = io.BytesIO()
    soundfile.write(file, samples(number), mel.SAMPLE_RATE, format=form)
    return file.getvalue()


def record(number, *parts):
    said = [{"role": "user", "content": [*parts, {"type": "text", "text": f"what is {number}?"}]}]
    return {"messages": [*said, {"role": "assistant", "content": f"it is {number}"}]}


def inline(data):
    part = {"data": base64.b64encode(data).decode(), "format": "flac"}
    return {"type": "input_audio", "input_audio": part}


def write(folder, records):
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def settings(path, **changes):
    options = {"seq_len": 128, "batch_size": 2, "sounds": 2, "sound_frames": ROOM}
    return config.DataConfig(paths=(str(path),), heldout_fraction=0.2, **options | changes)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Ten conversations with a sound, one with two, one without."""
    folder = tmp_path_factory.mktemp("chats")
    for number in range(10):
        (folder / f"{number}.flac").write_bytes(content(number))
    records = [record(n, {"type": "audio", "path": f"{n}.flac"}) for n in range(10)]
    records += [record(100, inline(content(0)), inline(content(1))), record(101)]
    return chats.read(settings(write(folder, records)), folder)


def test_every_row_has_the_sounds_of_its_conversations_where_they_stand(found):
    cfg = settings("unused")
    whole, seen = chats.documents(found, SHAPE, cfg), set()
    for number in range(10):
        batch = whole.train_batch(cfg, number)
        for row in range(2):
            sounds = batch.features
            for segment in range(1, batch.segment_ids[row].max() + 1):
                here = batch.segment_ids[row] == segment
                text = bytes(x for x in batch.targets[row][here] if x < 256).decode(errors="ignore")
                (name,) = {int(x.split("?")[0]) for x in text.split("what is ")[1:]}
                seen.add(name)
                stands = sounds.slots[row][here & (sounds.slots[row] >= 0)]
                own = {100: (0, 1), 101: ()}.get(name, (name,))
                per_sound = ROOM // SHAPE.frames_per_position
                assert [*dict.fromkeys((stands // per_sound).tolist())] == [
                    n for n in range(2) if n in stands // per_sound
                ]
                for one, place in zip(own, dict.fromkeys(stands // per_sound), strict=True):
                    want = mel.log_mel(samples(one).astype(np.float32))
                    count = sounds.num_frames[row, place]
                    assert count == len(want)
                    got = sounds.frames[row, place, :count].astype(np.float32)
                    np.testing.assert_allclose(got, want, atol=2e-2)  # 16 bits of a sample
                    num_slots = -(-count // SHAPE.frames_per_position)
                    mine = stands[stands // per_sound == place] % per_sound
                    np.testing.assert_array_equal(mine, np.arange(num_slots))
                trained = batch.targets[row][here & (batch.loss_mask[row] == 1)]
                assert bytes(trained[:-1].tolist()).decode() == f"it is {name}"
    assert len(seen) >= 8


BAD = {
    "truncated.flac": (content(0)[:60], "expected sound as WAV"),
    "short.wav": (None, "expected at least 0.1 s"),
    "absent.flac": (None, "expected the audio 'absent.flac' beside"),
}


def test_bad_sounds_leave_their_conversations_out_and_are_counted(tmp_path):
    records, told = [record(n, inline(content(n))) for n in range(6)], []
    soundfile.write(tmp_path / "short.wav", np.zeros(100), mel.SAMPLE_RATE)
    (tmp_path / "truncated.flac").write_bytes(BAD["truncated.flac"][0])
    records += [record(50, {"type": "audio", "path": name}) for name in BAD]
    records.append(record(60, {"type": "input_audio", "input_audio": {"data": "!"}}))
    found = chats.read(settings(write(tmp_path, records)), tmp_path, told.append)
    assert len(found.chats) == 6 and found.num_skipped == 4
    for name, (_, message) in BAD.items():
        alone = write(tmp_path, [record(0, {"type": "audio", "path": name})])
        with pytest.raises(DataError, match=message):
            chats.read(settings(alone), tmp_path)


def test_sounds_that_a_row_has_no_room_for_are_named(found):
    with pytest.raises(DataError, match=r"line \d+: expected sounds of at most .* = 70 frames"):
        chats.documents(found, SHAPE, settings("unused", sound_frames=70))
    with pytest.raises(DataError, match=r"line 11: expected at most data\.sounds = 1 sounds"):
        chats.documents(found, SHAPE, settings("unused", sounds=1))


def test_an_encoder_of_other_features_is_refused():
    shape = dataclasses.replace(presets.tiny(), audio=dataclasses.replace(SHAPE, num_bands=40))
    data = config.DataConfig(sounds=2, sound_frames=ROOM)
    with pytest.raises(config.ConfigError, match=r"num_bands must be 80.*, got 40"):
        sound_chats.Config(name="x", question="?", model=shape, data=data)
    for changes, message in (
        ({"sound_frames": 85}, "sound_frames must be a multiple of 10"),
        ({"sounds": 0}, "need model.audio and data.sounds, got an encoder and 0"),
        ({"image_patches": 4}, "images or sounds, got 4 and 2"),
    ):
        with pytest.raises(config.ConfigError, match=message):
            sound_chats.Config(
                name="x",
                question="?",
                model=dataclasses.replace(shape, audio=SHAPE),
                data=dataclasses.replace(data, **changes),
            )
    with pytest.raises(config.ConfigError, match=r"data\.sounds must be 0 without model\.audio"):
        pretrain.Config(name="x", question="?", model=presets.tiny(), data=data)
