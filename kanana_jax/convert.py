"""Converts checkpoints: python -m kanana_jax.convert with two folders.

    --from-hf=DIR  --to=DIR       a DeepseekV3ForCausalLM becomes a model folder
    --from=DIR     --to-hf=DIR    and back
    --from-run=DIR --to=DIR       the newest checkpoint of a training run becomes a model folder

A model folder is what training starts from and what `kanana_jax.generate` loads. Exit code 2: the
files cannot be used, and nothing was written. 4: the disk takes nothing.
"""

import argparse

from kanana_jax import errors, extras
from kanana_jax.config import paths

with extras.needed("train"):
    import tqdm
    from absl import logging

    from kanana_jax.checkpoint import CheckpointError
    from kanana_jax.weights import hf, run_folder

_PROGRAM = "kanana_jax.convert"


def main(argv: list[str] | None = None) -> None:
    logging.set_verbosity(logging.ERROR)  # Orbax warns of what streaming leaves out
    arguments = _parser().parse_args(argv)
    try:
        with errors.reported(_PROGRAM):
            _convert(arguments)
    except OSError as error:
        errors.leave(_PROGRAM, error, exit_code=4)


def _convert(arguments: argparse.Namespace) -> None:
    for name, flag in _FOLDERS.items():
        if getattr(arguments, name) is not None:
            folder = paths.local(getattr(arguments, name), flag)
            setattr(arguments, name, folder)
            if name in ("to", "to_hf"):
                paths.expect_folder(folder, flag)
    given = {name for name, value in vars(arguments).items() if value is not None}
    with tqdm.tqdm(unit="B", unit_scale=True, disable=None) as bar:
        if {"from_hf", "to"} <= given <= {"from_hf", "to", "dtype"}:
            left_out = hf.import_directory(
                arguments.from_hf, arguments.to, dtype=arguments.dtype, on_tensor=bar.update
            )
            if left_out:
                bar.write(f"left out {len(left_out)} tensors of extra predictor layers")
        elif {"native", "to_hf"} <= given and not given & {"from_hf", "to", "from_run"}:
            hf.export_directory(
                arguments.native,
                arguments.to_hf,
                dtype=arguments.dtype,
                max_position_embeddings=arguments.max_position_embeddings,
                on_tensor=bar.update,
            )
        elif given == {"from_run", "to"}:
            run_folder.import_run(arguments.from_run, arguments.to)
        else:
            raise CheckpointError(
                "expected --from-hf and --to, --from and --to-hf, or --from-run and --to; --dtype "
                "and --max-position-embeddings are of the Hugging Face side"
            )


_FOLDERS = {
    "from_hf": "--from-hf",
    "from_run": "--from-run",
    "to": "--to",
    "native": "--from",
    "to_hf": "--to-hf",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {_PROGRAM}", allow_abbrev=False)
    parser.add_argument("--from-hf", help="Hugging Face folder to import")
    parser.add_argument("--from-run", help="folder of a training run")
    parser.add_argument("--to", help="new folder for the imported model")
    parser.add_argument("--from", dest="native", help="folder to export")
    parser.add_argument("--to-hf", help="new Hugging Face folder")
    parser.add_argument("--dtype", choices=hf.DTYPES, help="of the weights; default: as they are")
    parser.add_argument(
        "--max-position-embeddings", type=int, help="longest context, where it is not known"
    )
    return parser


if __name__ == "__main__":
    main()
