"""What the commands that load a model share: its flags, and how it is loaded."""

import argparse

from absl import logging

from kanana_jax import generate, parallel


def model_parser(program: str) -> argparse.ArgumentParser:
    """A parser with the flags that `load` reads."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", allow_abbrev=False)
    parser.add_argument("--checkpoint", required=True, help="a model's folder")
    parser.add_argument(
        "--adapters", help="a PEFT folder, or that of a run which trained adapters to the model"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: the model's")
    parser.add_argument(
        "--tensor-parallel", type=int, default=1, help="devices that share every layer"
    )
    return parser


def load(arguments: argparse.Namespace) -> generate.Loaded:
    """The model that the arguments name; raises what `generate.load` does."""
    logging.set_verbosity(logging.ERROR)  # only our own lines are for the user
    parallel.expect_devices()
    return generate.load(
        arguments.checkpoint,
        arguments.dtype,
        tensor_parallel=arguments.tensor_parallel,
        adapters=arguments.adapters,
    )
