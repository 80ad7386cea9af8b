"""An encoder of images and the projector that joins its patches into positions of the decoder."""

from kanana_jax.model.vision.tower import Tower, specs

__all__ = ["Tower", "specs"]
