"""lm-evaluation-harness's own command, with kanana_jax among its models."""

from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

from kanana_jax.evaluate import harness

if __name__ == "__main__":
    assert harness.KananaJax  # registered by the import
    cli_evaluate()
