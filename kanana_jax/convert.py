"""Converts checkpoints: python -m kanana_jax.convert with two folders.

    --from-hf=DIR  --to=DIR       a Hugging Face folder becomes a model folder: of
                                  DeepseekV3ForCausalLM, Glm4MoeLiteForCausalLM, LlamaForCausalLM
                                  or Qwen3ForCausalLM, or the language model of one with images;
                                  with --images its encoder of images, too (Kimi K2.5's)
    --from=DIR     --to-hf=DIR    and back
    --from-gguf=FILE --to=DIR     a GGUF file of Llama's architecture becomes a model folder
    --from-run=DIR --to=DIR       the newest checkpoint of a training run becomes a model folder;
                                  with --average the average of its weights does
                                  with --to-peft=DIR, its adapters become a PEFT folder
    --adapters=DIR --from=DIR --to=DIR   a model folder with adapters in it, those of a PEFT folder
                                  or of a run that trained them beside it
    --merge DIR DIR... --to=DIR   the mean of models of one shape and tokenizer; with --base=DIR,
                                  from which all were trained, their changes are merged by TIES
    --merge-run=DIR --last=K --to=DIR    the mean of the K newest checkpoints of a training run

    --grow WHAT=N... --from=DIR --to=DIR     a larger model of one: stack=N, two copies without N
                                  layers each; interpose=N or interpose_zero=N, copies of N layers,
                                  which add nothing yet; experts=N, each N times, with --noise=X
    --prune FIELD=N... --from=DIR --to=DIR --calibrate PATH...    a smaller one: fields of its
                                  config, cut by what they do with --samples of --length tokens

    --vector-gains --from=DIR --to=DIR       the same model whose norms multiply by a vector, as
                                  Hugging Face's do, from model.norm_gain and zero_centered_gamma

Growth and cuts print what a model has after each change, and with --dry-run they write nothing.
Their --from may be a Hugging Face folder. --weights=0.2,0.3,0.5 weighs the models of a mean,
checkpoints from the oldest on. A model folder is what training starts from and what
`kanana_jax.generate` loads. Exit code 2: the files cannot be used, and nothing was written. 4: the
disk takes nothing.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

from kanana_jax import config, errors, extras
from kanana_jax.config import paths

with extras.needed("train"):
    import tqdm
    from absl import logging

    from kanana_jax import surgery
    from kanana_jax.checkpoint import CheckpointError
    from kanana_jax.checkpoint.errors import some
    from kanana_jax.weights import gguf_files, hf, hf_checks, merge, run_folder

_PROGRAM = "kanana_jax.convert"
_FOLDERS = {"from_hf", "from_gguf", "from_run", "native", "adapters", "merge_run"}
_FOLDERS |= {"to", "to_hf", "to_peft"}


def main(argv: list[str] | None = None) -> None:
    logging.set_verbosity(logging.ERROR)  # only our own lines are for the user
    arguments = _parser().parse_args(argv)
    try:
        with errors.reported(_PROGRAM):
            _convert(arguments)
    except OSError as error:
        errors.leave(_PROGRAM, error, exit_code=4)


def _convert(arguments: argparse.Namespace) -> None:
    given = {name for name, value in vars(arguments).items() if value is not None}
    for name in given & _FOLDERS:
        setattr(arguments, name, paths.local(getattr(arguments, name), _flag(name)))
    for name in given & {"to", "to_hf", "to_peft"}:
        paths.expect_folder(getattr(arguments, name), _flag(name))
    for way in _WAYS:
        if {*way.needed} <= given <= {*way.needed, *way.optional}:
            with tqdm.tqdm(unit="B", unit_scale=True, disable=None) as bar:
                return way.convert(arguments, bar)
    got = " ".join(map(_flag, sorted(given))) or "none"
    raise CheckpointError(f"expected the flags {', or '.join(map(_words, _WAYS))}; got {got}")


def _from_hf(arguments: argparse.Namespace, bar: tqdm.tqdm) -> None:
    left_out = hf.import_directory(
        arguments.from_hf,
        arguments.to,
        dtype=arguments.dtype,
        with_images=bool(arguments.images),
        on_tensor=bar.update,
    )
    if left_out:
        parts = sorted(hf_checks.parts_of(left_out))
        bar.write(f"left out {len(left_out)} tensors, of {some(parts)}")


def _from_gguf(arguments: argparse.Namespace, bar: tqdm.tqdm) -> None:
    gguf_files.import_file(
        arguments.from_gguf, arguments.to, dtype=arguments.dtype, on_tensor=bar.update
    )


def _to_hf(arguments: argparse.Namespace, bar: tqdm.tqdm) -> None:
    hf.export_directory(
        arguments.native,
        arguments.to_hf,
        dtype=arguments.dtype,
        max_position_embeddings=arguments.max_position_embeddings,
        image_token_id=arguments.image_token_id,
        on_tensor=bar.update,
    )


def _from_run(arguments: argparse.Namespace, bar: tqdm.tqdm) -> None:
    run_folder.import_run(arguments.from_run, arguments.to, is_average=bool(arguments.average))


def _to_peft(arguments: argparse.Namespace, bar: tqdm.tqdm) -> None:
    run_folder.export_peft(arguments.from_run, arguments.to_peft)


def _with_adapters(arguments: argparse.Namespace, bar: tqdm.tqdm) -> None:
    merge.merge_adapters(
        arguments.native,
        arguments.adapters,
        arguments.to,
        dtype=arguments.dtype,
        on_part=bar.update,
    )


def _merge(arguments: argparse.Namespace, bar: tqdm.tqdm) -> None:
    merge.merge_folders(
        [paths.local(one, "--merge") for one in arguments.merge],
        arguments.to,
        weights=arguments.weights,
        base=arguments.base and paths.local(arguments.base, "--base"),
        density=merge.DENSITY if arguments.density is None else arguments.density,
        dtype=arguments.dtype,
        on_part=bar.update,
    )


def _merge_run(arguments: argparse.Namespace, bar: tqdm.tqdm) -> None:
    merge.merge_run(
        arguments.merge_run, arguments.to, last=arguments.last, weights=arguments.weights
    )


def _grow(arguments: argparse.Namespace, bar: tqdm.tqdm) -> None:
    chosen = config.SurgeryConfig(grow=tuple(arguments.grow), noise=arguments.noise or 0.0)
    _operate(chosen, config.DataConfig(), arguments, bar)


def _prune(arguments: argparse.Namespace, bar: tqdm.tqdm) -> None:
    chosen = config.SurgeryConfig(
        prune=tuple(arguments.prune),
        num_samples=arguments.samples or 512,
        length=arguments.length or 2048,
        expert_score=arguments.expert_score or "reap",
    )
    _operate(chosen, config.DataConfig(paths=tuple(arguments.calibrate)), arguments, bar)


def _operate(
    chosen: config.SurgeryConfig,
    text: config.DataConfig,
    arguments: argparse.Namespace,
    bar: tqdm.tqdm,
) -> None:
    surgery.make(
        chosen,
        arguments.native,
        arguments.to,
        text=text,
        is_dry=bool(arguments.dry_run),
        report=bar.write,
    )


def _vector_gains(arguments: argparse.Namespace, bar: tqdm.tqdm) -> None:
    surgery.write_vector_gains(arguments.native, arguments.to)


class _Way(NamedTuple):
    """Flags, by their argument names, and the function that takes them."""

    needed: tuple[str, ...]
    optional: tuple[str, ...]
    convert: Callable[[argparse.Namespace, tqdm.tqdm], None]


_WAYS = (
    _Way(("from_hf", "to"), ("dtype", "images"), _from_hf),
    _Way(("from_gguf", "to"), ("dtype",), _from_gguf),
    _Way(("native", "to_hf"), ("dtype", "max_position_embeddings", "image_token_id"), _to_hf),
    _Way(("from_run", "to"), ("average",), _from_run),
    _Way(("from_run", "to_peft"), (), _to_peft),
    _Way(("adapters", "native", "to"), ("dtype",), _with_adapters),
    _Way(("merge", "to"), ("weights", "dtype"), _merge),
    _Way(("merge", "base", "to"), ("density", "weights", "dtype"), _merge),
    _Way(("merge_run", "last", "to"), ("weights",), _merge_run),
    _Way(("vector_gains", "native", "to"), (), _vector_gains),
    _Way(("grow", "native", "to"), ("noise", "dry_run"), _grow),
    _Way(
        ("prune", "native", "to", "calibrate"),
        ("samples", "length", "expert_score", "dry_run"),
        _prune,
    ),
)


def _flag(name: str) -> str:
    return "--from" if name == "native" else f"--{name.replace('_', '-')}"


def _words(way: _Way) -> str:
    return " ".join([*map(_flag, way.needed), *(f"[{_flag(name)}]" for name in way.optional)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {_PROGRAM}", allow_abbrev=False)
    parser.add_argument("--from-hf", help="Hugging Face folder to import")
    parser.add_argument("--from-gguf", help="GGUF file to import")
    parser.add_argument("--from-run", help="folder of a training run")
    parser.add_argument(
        "--average", action="store_const", const=True, help="take the average of its weights"
    )
    parser.add_argument("--adapters", help="PEFT folder, or folder of a run that trained adapters")
    parser.add_argument("--merge", nargs="+", help="folders of models, converted or Hugging Face")
    parser.add_argument("--base", help="folder of the model that those of --merge began as")
    parser.add_argument(
        "--density", type=float, help="share of every array's changes that count; default: 0.2"
    )
    parser.add_argument("--merge-run", help="folder of a training run")
    parser.add_argument("--last", type=int, help="how many of its newest checkpoints to merge")
    parser.add_argument(
        "--weights", type=_numbers, help="of its models, e.g. 1,1,2; default: equal"
    )
    parser.add_argument(
        "--vector-gains", action="store_const", const=True, help="of norms, whatever they are"
    )
    parser.add_argument("--grow", nargs="+", help="what to repeat, e.g. stack=12")
    parser.add_argument("--noise", type=float, help="of copied experts, relative; default: none")
    parser.add_argument("--prune", nargs="+", help="what to cut, e.g. num_heads=24")
    parser.add_argument("--calibrate", nargs="+", help="text that shows what matters")
    parser.add_argument("--samples", type=_count, help="documents of it; default: 512")
    parser.add_argument("--length", type=_count, help="tokens of a document; default: 2048")
    parser.add_argument(
        "--expert-score", choices=("reap", "frequency", "random"), help="of --prune num_experts=N"
    )
    parser.add_argument(
        "--dry-run", action="store_const", const=True, help="print the figures, write nothing"
    )
    parser.add_argument("--to", help="new folder for the model")
    parser.add_argument("--from", dest="native", help="folder to export")
    parser.add_argument("--to-hf", help="new Hugging Face folder")
    parser.add_argument("--to-peft", help="new PEFT folder")
    parser.add_argument("--dtype", choices=hf.DTYPES, help="of the weights; default: as they are")
    parser.add_argument(
        "--max-position-embeddings", type=int, help="longest context, where it is not known"
    )
    parser.add_argument(
        "--images", action="store_const", const=True, help="import the encoder of images, too"
    )
    parser.add_argument(
        "--image-token-id", type=_count, help="stands for images, where it is not known"
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text!r}")
    return int(text)


def _numbers(text: str) -> list[float]:
    try:
        return [float(one) for one in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected numbers with commas between them, got {text!r}"
        ) from None


if __name__ == "__main__":
    main()
