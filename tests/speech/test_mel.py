"""Whisper's features, against those of a reference implementation."""

from pathlib import Path

import numpy as np
import pytest

from kanana_jax.speech import mel

pytestmark = pytest.mark.slow

GOLDEN = np.load(Path(__file__).with_name("mel_golden.npz"))


@pytest.mark.parametrize("name", ["slide", "short"])
def test_features_are_those_of_transformers(name):
    got = mel.log_mel(GOLDEN[f"{name}_samples"])
    np.testing.assert_allclose(got, GOLDEN[f"{name}_features"], atol=2e-6)


def test_each_whole_hop_is_a_frame():
    assert [len(mel.log_mel(np.zeros(n))) for n in (319, 320, 16_000)] == [1, 2, 100]


def test_sound_that_cannot_be_reflected_is_refused():
    with pytest.raises(ValueError, match="more than 200 samples at 16000 Hz, got 200"):
        mel.log_mel(np.zeros(200))
