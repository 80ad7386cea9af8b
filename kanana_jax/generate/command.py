"""What the commands of this package share: which model they load, and how a useless one ends."""

import argparse
import contextlib
import sys
from collections.abc import Iterator

from absl import logging

from kanana_jax import config, generate, parallel
from kanana_jax.checkpoint import CheckpointError
from kanana_jax.data import DataError


def model_parser(module: str) -> argparse.ArgumentParser:
    """A parser that knows the model of `load`."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", allow_abbrev=False)
    parser.add_argument("--checkpoint", required=True, help="a model's folder")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: the model's")
    parser.add_argument(
        "--tensor-parallel", type=int, default=1, help="devices that share every layer"
    )
    return parser


def load(arguments: argparse.Namespace) -> generate.Loaded:
    """The model that the arguments name; raises what `generate.load` does."""
    parallel.expect_devices()
    return generate.load(
        arguments.checkpoint, arguments.dtype, tensor_parallel=arguments.tensor_parallel
    )


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Inside, a folder or a setting that cannot be used ends the process: one line, exit code 2."""
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    except (CheckpointError, config.ConfigError, DataError, ValueError) as error:
        print(f"kanana_jax: {error}", file=sys.stderr)
        sys.exit(2)
