"""An HTTP server with OpenAI's interface on top of the continuous-batching engine."""

from kanana_jax import extras

with extras.needed("train", "serve"):
    from kanana_jax.generate.serve.app import Limits, make_app
    from kanana_jax.generate.serve.hearing import SoundLimits
    from kanana_jax.generate.serve.images import ImageLimits
    from kanana_jax.generate.serve.worker import Worker

__all__ = ["ImageLimits", "Limits", "SoundLimits", "Worker", "make_app"]
