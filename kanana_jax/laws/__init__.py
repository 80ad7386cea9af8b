"""Scaling laws fitted to runs: what a large run should be, from small ones, and how sure that is.

python -m kanana_jax.laws transfer RUNS...     the learning rate of more tokens
python -m kanana_jax.laws recover              does the multilingual fit find what made the data
"""
