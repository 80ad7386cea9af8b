"""How good a model is at given text: log-likelihoods, bits per byte, pairs, a harness's tasks.

python -m kanana_jax.evaluate.bits_per_byte     text of your own
python -m kanana_jax.evaluate.preferences       pairs of answers
python -m kanana_jax.evaluate.harness           EleutherAI's lm-evaluation-harness
"""

from kanana_jax import extras

with extras.needed("train"):
    from kanana_jax.evaluate.scoring import Pair, Score, Scorer, prefix_id, windows

__all__ = ["Pair", "Score", "Scorer", "prefix_id", "windows"]
