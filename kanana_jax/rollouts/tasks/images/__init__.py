"""Receipts, tables, forms and charts in English and Korean, drawn from records, with questions."""

from kanana_jax.rollouts.tasks.images.families import FAMILIES, LEVELS, image, make
from kanana_jax.rollouts.tasks.images.render import WIDTH, height, render

__all__ = ["FAMILIES", "LEVELS", "WIDTH", "height", "image", "make", "render"]
