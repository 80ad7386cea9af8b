"""Converts checkpoints: python -m kanana_jax.convert --from-hf=DIR --to=DIR, or --from and --to-hf.

The Hugging Face side is a DeepseekV3ForCausalLM with safetensors; the other is what training can
start from and `kanana_jax.generate` loads. Exit code 2: the files cannot be used, and nothing was
written.
"""

import argparse
import sys
from pathlib import Path

import tqdm
from absl import logging

from kanana_jax import config
from kanana_jax.checkpoint import CheckpointError, hf


def main(argv: list[str] | None = None) -> None:
    logging.set_verbosity(logging.ERROR)  # Orbax warns of what streaming leaves out
    arguments = _parser().parse_args(argv)
    try:
        _convert(arguments)
    except (CheckpointError, config.ConfigError) as error:
        print(f"kanana_jax: {error}", file=sys.stderr)
        sys.exit(2)


def _convert(arguments: argparse.Namespace) -> None:
    given = {name for name, value in vars(arguments).items() if value is not None}
    with tqdm.tqdm(unit="B", unit_scale=True, disable=None) as bar:
        if {"from_hf", "to"} <= given <= {"from_hf", "to", "dtype"}:
            left_out = hf.import_directory(
                arguments.from_hf, arguments.to, dtype=arguments.dtype, on_tensor=bar.update
            )
            if left_out:
                bar.write(f"left out {len(left_out)} tensors of extra predictor layers")
        elif {"native", "to_hf"} <= given and not given & {"from_hf", "to"}:
            hf.export_directory(
                arguments.native,
                arguments.to_hf,
                dtype=arguments.dtype,
                max_position_embeddings=arguments.max_position_embeddings,
                on_tensor=bar.update,
            )
        else:
            raise CheckpointError(
                "expected --from-hf and --to, or --from and --to-hf; "
                "--max_position_embeddings goes with --to-hf only"
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kanana_jax.convert", allow_abbrev=False)
    parser.add_argument("--from-hf", type=Path, help="Hugging Face folder to import")
    parser.add_argument("--to", type=Path, help="new folder for the imported model")
    parser.add_argument("--from", type=Path, dest="native", help="folder to export")
    parser.add_argument("--to-hf", type=Path, help="new Hugging Face folder")
    parser.add_argument("--dtype", choices=hf.DTYPES, help="of the weights; default: as they are")
    parser.add_argument(
        "--max_position_embeddings", type=int, help="longest context, where it is not known"
    )
    return parser


if __name__ == "__main__":
    main()
