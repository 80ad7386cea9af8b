"""What a model with a sound encoder writes down from files, against what was said."""

import dataclasses
import json

import numpy as np
import pytest
import small_decoder
from served import write_model

from kanana_jax import config, generate
from kanana_jax.data import chat
from kanana_jax.data.errors import DataError
from kanana_jax.evaluate import speech
from kanana_jax.speech import making, mel, toy
from kanana_jax.speech.voices import Voice

pytest.importorskip("soundfile")
pytestmark = pytest.mark.slow

SHAPE = config.AudioConfig(hidden_size=8, num_layers=1, num_heads=1, intermediate_size=8)
CFG = dataclasses.replace(small_decoder.READER, vision=None, audio=SHAPE)
TEXTS = ("one", "빨간 배", "three birds")


def utterance(number, text):
    count = (3 + number) * mel.SAMPLE_RATE // 10
    samples = np.random.default_rng(number).integers(-9000, 9000, count, dtype=np.int16)
    return toy.Utterance(text, Voice(language="en"), samples, mel.log_mel(samples / 2**15))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("heard")
    making.write_sounds(made, "heldout", [*map(utterance, range(3), TEXTS)])
    return made


def test_what_is_written_is_what_is_read(folder):
    sounds = speech.read_sounds(folder / "heldout.jsonl", 8)
    assert tuple(one.text for one in sounds) == TEXTS
    for number, one in enumerate(sounds):
        want = utterance(number, "").mel_FM
        np.testing.assert_allclose(one.mel_FM, want, atol=5e-3)
    with pytest.raises(DataError, match="got 0; make it with"):
        speech.read(folder / "heldout.jsonl", 8)


def test_errors_are_counted_in_characters_of_what_was_said():
    found = speech.figures(["abcd", "xy"], ["abc", "xy"])
    assert found["cer_heard"] == 1 / 6 and found["exact_heard"] == 0.5
    assert found["cer_shuffled"] == (3 + 4) / 6  # abc for xy, xy for abcd


@pytest.mark.long
def test_every_sound_is_written_down_by_the_model_and_judged(folder, tmp_path, capsys):
    write_model(tmp_path / "hearer", chat.PLAIN.template, CFG)
    arguments = [
        f"--checkpoint={tmp_path / 'hearer'}",
        f"--conversations={folder / 'heldout.jsonl'}",
        "--length=40",
    ]
    speech.main([*arguments, f"--out={tmp_path / 'figures.json'}"])
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["utterances"] == 3 and found["exact_heard"] == 0
    loaded = generate.load(tmp_path / "hearer")
    sounds = speech.read_sounds(folder / "heldout.jsonl", 8)
    again = speech.measure_sounds(loaded, sounds[::-1], length=40)
    assert again["cer_heard"] == found["cer_heard"] > 0.5
    with pytest.raises(SystemExit):
        speech.main([*arguments[:2], "--length=5"])
    assert "expected more than" in capsys.readouterr().err
