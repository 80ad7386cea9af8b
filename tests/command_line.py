"""The command `python -m kanana_jax.main`, called in the process of the tests."""

from absl.testing import flagsaver

from kanana_jax import main


def run(*arguments: str) -> None:
    """Raises SystemExit as the command would end; flags are afterwards as they were."""
    with flagsaver.flagsaver():
        main.main(main.flags.FLAGS(["main", *arguments]))
