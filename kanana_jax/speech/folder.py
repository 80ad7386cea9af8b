"""What a model needs besides its own folder to speak.

DIR/speech.json         sizes of the codec, and voices
DIR/codec.safetensors   the codec's weights and codebook
"""

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from kanana_jax.speech import codec
from kanana_jax.speech.codec import Codebook, Codec, CodecConfig
from kanana_jax.speech.errors import SpeechError

_SETTINGS, _WEIGHTS = "speech.json", "codec.safetensors"
_MAKE_ONE = "it is written by the training of a speech model, docs/speech.md"


class Speaker(NamedTuple):
    """A codec, and the voices that the decoder has learned."""

    cfg: CodecConfig
    codec: Codec
    voices: tuple[str, ...]


def write(folder: Path, speaker: Speaker) -> None:
    """Writes a speaker into a folder that exists."""
    about = {
        "codec": dataclasses.asdict(speaker.cfg),
        "voices": list(speaker.voices),
    }
    (folder / _SETTINGS).write_text(json.dumps(about, indent=2) + "\n")
    save_file(_named(speaker.codec), folder / _WEIGHTS)


def read(folder: Path) -> Speaker:
    """What `write` has written. SpeechError where it is missing."""
    try:
        about = json.loads((folder / _SETTINGS).read_text())
        cfg = CodecConfig(**about["codec"])
        voices = tuple(str(one) for one in about["voices"])
        stored = load_file(folder / _WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise SpeechError(
            f"{folder} must hold {_SETTINGS} and {_WEIGHTS} of a speech model, got "
            f"{type(error).__name__}: {error}; {_MAKE_ONE}"
        ) from None
    like = jax.eval_shape(lambda: codec.init(cfg, jax.random.key(0)))
    wanted = {name: leaf.shape for name, leaf in _named(like).items()}
    found = {name: leaf.shape for name, leaf in stored.items()}
    if wanted != found:
        raise SpeechError(f"{folder / _WEIGHTS} must hold {wanted}, got {found}; {_MAKE_ONE}")
    book = Codebook(*(jnp.asarray(stored.pop(f"book.{name}")) for name in Codebook._fields))
    return Speaker(cfg, Codec(jax.tree.map(jnp.asarray, stored), book), voices)


def _named(of: Codec) -> dict[str, np.ndarray]:
    arrays = of.params | {f"book.{name}": leaf for name, leaf in of.book._asdict().items()}
    is_abstract = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in arrays.values())
    return arrays if is_abstract else {name: np.asarray(leaf) for name, leaf in arrays.items()}
