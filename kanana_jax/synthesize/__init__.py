"""Synthetic data through any endpoint that speaks OpenAI's chat interface, our own server too.

python -m kanana_jax.synthesize IN... --to=OUT --endpoint=URL --model=NAME

`client` asks, with one cache entry for each request; `batch` runs documents in parallel and writes
them in their order; `styles`, `chunks` and `fidelity` build rephrasing on these.
"""
