"""Makes toy speech ready to train on: python -m kanana_jax.speech --out=DIR.

    DIR/speech.json, codec.safetensors   the codec, trained on the training voices
    DIR/tokenizer.json                   bytes, two special tokens and the codes
    DIR/train.jsonl, heldout.jsonl       conversations: texts to say, and codes to write down;
                                         heldout has other sentences of other voices
    DIR/heard/train.jsonl, heldout.jsonl the same sounds as files, to be written down by a model
                                         that has an encoder
    DIR/codec.json                       what the codec does to the held-out voices

Train on them by --experiment=speech_small or speech_heard. Exit code 2: espeakng-loader is missing,
or the folder cannot be written.
"""

import argparse
from pathlib import Path

from kanana_jax import errors

_PROGRAM = "kanana_jax.speech"


def main(argv: list[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    with errors.reported(_PROGRAM):
        from kanana_jax.speech import making  # the processes that speak do without

        sizes = making.Sizes(arguments.utterances, arguments.steps, arguments.codes, arguments.seed)
        making.make(Path(arguments.out), sizes, lambda line: print(line, flush=True))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {_PROGRAM}", allow_abbrev=False)
    parser.add_argument("--out", required=True, help="a folder")
    parser.add_argument("--utterances", type=int, default=2000, help="to train on")
    parser.add_argument("--steps", type=int, default=2000, help="of the codec's training")
    parser.add_argument("--codes", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()
