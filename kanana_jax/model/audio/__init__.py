"""An encoder of sound and the abstractor that joins its states into positions of the decoder."""

from kanana_jax.model.audio.encoder import Encoded, Encoder, specs

__all__ = ["Encoded", "Encoder", "specs"]
